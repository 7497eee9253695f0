// Herald: a thread that does nothing, so that its end tells of the server's. A queue's thread of a
// killed server is held until the kernel has quiesced the disk, some grace periods, and the
// process's pidfd waits for the last thread; this one ends at once. The main thread's end would do
// as well, but Linux does not tell of it while others are left (pidfd_poll, 6.15).
#pragma once
#include <pthread.h>

#include <atomic>
#include <memory>

#include "common/base/pidfd.h"
#include "common/base/result.h"

namespace ublk_operator {

class Herald {
 public:
  // EINVAL: a kernel before 6.9, which has no descriptors of threads.
  [[nodiscard]] static Result<std::unique_ptr<Herald>> start();
  ~Herald();
  Herald(const Herald&) = delete;
  Herald& operator=(const Herald&) = delete;

  // Readable when the server has begun to end; good in any process that it is sent to.
  [[nodiscard]] int fd() const { return thread_fd_.fd(); }

 private:
  Herald() = default;
  static void* thread_main(void* self);

  pthread_t thread_{};
  std::atomic<pid_t> tid_ = 0;
  std::atomic<bool> over_ = false;
  Pidfd thread_fd_;
};

}  // namespace ublk_operator
