#include "node/backends/delay/delay_backend.h"

#include <cerrno>

namespace ublk_operator {
namespace {

class DelayQueue : public BackendQueue {
 public:
  DelayQueue(const QueueContext& context, std::unique_ptr<BackendQueue> inner, uint64_t latency_ns)
      : context_(context),
        inner_(std::move(inner)),
        latency_ns_(latency_ns),
        held_(context.depth) {}

  std::optional<int32_t> start(const IoRequest& request) override {
    if (request.op != IoOp::read && request.op != IoOp::write) return inner_->start(request);
    held_[request.tag] = request;
    // The timeout slot of a tag is its own: a tag is held at most once at a time.
    context_.ring.prep_timeout_ns(latency_ns_, request.tag, context_.token(request.tag));
    return std::nullopt;
  }

  std::optional<int32_t> advance(uint16_t tag, int32_t result) override {
    std::optional<IoRequest>& held = held_[tag];
    if (!held) return inner_->advance(tag, result);
    const IoRequest request = *held;
    held.reset();
    if (result != -ETIME && result < 0) return result;  // cancelled: the ring is ending
    return inner_->start(request);
  }

 private:
  const QueueContext context_;
  const std::unique_ptr<BackendQueue> inner_;
  const uint64_t latency_ns_;
  std::vector<std::optional<IoRequest>> held_;  // by tag
};

class DelayBackend : public Backend {
 public:
  DelayBackend(std::unique_ptr<Backend> inner, uint64_t latency_ns)
      : inner_(std::move(inner)), latency_ns_(latency_ns) {}
  [[nodiscard]] Fence fence() const override { return inner_->fence(); }
  [[nodiscard]] unsigned file_slots() const override { return inner_->file_slots(); }
  Result<std::unique_ptr<BackendQueue>> open_queue(const QueueContext& context) override {
    auto inner = inner_->open_queue(context);
    if (!inner) return std::move(inner).error();
    return std::unique_ptr<BackendQueue>(
        std::make_unique<DelayQueue>(context, std::move(inner).value(), latency_ns_));
  }

 private:
  const std::unique_ptr<Backend> inner_;
  const uint64_t latency_ns_;
};

}  // namespace

std::unique_ptr<Backend> make_delay_backend(std::unique_ptr<Backend> inner, uint64_t latency_ns) {
  return std::make_unique<DelayBackend>(std::move(inner), latency_ns);
}

}  // namespace ublk_operator
