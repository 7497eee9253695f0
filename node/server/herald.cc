#include "node/server/herald.h"

#include <unistd.h>

#include <utility>

namespace ublk_operator {

namespace {
constexpr size_t stack_bytes = 64 << 10;  // it is locked memory
}  // namespace

Result<std::unique_ptr<Herald>> Herald::start() {
  std::unique_ptr<Herald> herald(new Herald);
  pthread_attr_t attributes;
  pthread_attr_init(&attributes);
  pthread_attr_setstacksize(&attributes, stack_bytes);
  const int err = pthread_create(&herald->thread_, &attributes, &Herald::thread_main, herald.get());
  pthread_attr_destroy(&attributes);
  if (err != 0) {
    herald->over_ = true;  // nothing to join
    return Error{err, "pthread_create", "herald", ""};
  }
  herald->tid_.wait(0);
  auto fd = Pidfd::open_thread(herald->tid_);
  if (!fd) return std::move(fd).error();
  herald->thread_fd_ = std::move(fd).value();
  return herald;
}

Herald::~Herald() {
  if (over_.exchange(true)) return;
  over_.notify_one();
  pthread_join(thread_, nullptr);
}

void* Herald::thread_main(void* self) {
  (void)pthread_setname_np(pthread_self(), "ublk-herald");
  auto* herald = static_cast<Herald*>(self);
  herald->tid_ = gettid();
  herald->tid_.notify_one();
  herald->over_.wait(false);
  return nullptr;
}

}  // namespace ublk_operator
