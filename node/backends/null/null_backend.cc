#include "node/backends/null/null_backend.h"

#include "common/base/error.h"

namespace ublk_operator {
namespace {

class NullQueue : public BackendQueue {
 public:
  std::optional<int32_t> start(const IoRequest& request) override {
    return static_cast<int32_t>(request.length_bytes);
  }
  std::optional<int32_t> advance(uint16_t, int32_t) override {
    panic("null backend was advanced, but puts nothing into the ring", __FILE__, __LINE__);
  }
};

class NullBackend : public Backend {
 public:
  [[nodiscard]] Fence fence() const override { return Fence::ring_end; }
  [[nodiscard]] unsigned file_slots() const override { return 0; }
  Result<std::unique_ptr<BackendQueue>> open_queue(const QueueContext&) override {
    return std::unique_ptr<BackendQueue>(std::make_unique<NullQueue>());
  }
};

}  // namespace

std::unique_ptr<Backend> make_null_backend() { return std::make_unique<NullBackend>(); }

}  // namespace ublk_operator
