#include "common/kube/cancel.h"

namespace ublk_operator::kube {

Cancel::Cancel() : state_(std::make_shared<State>()) {}

void Cancel::cancel() {
  const std::scoped_lock lock(state_->mutex);
  if (state_->canceled) return;
  state_->canceled = true;
  for (const auto& [id, action] : state_->actions) action();
  state_->actions.clear();
}

bool Cancel::canceled() const {
  const std::scoped_lock lock(state_->mutex);
  return state_->canceled;
}

Cancel::Link Cancel::on_cancel(std::function<void()> action) const {
  const std::scoped_lock lock(state_->mutex);
  const uint64_t id = state_->next++;
  if (state_->canceled)
    action();
  else
    state_->actions.emplace(id, std::move(action));
  return {state_, id};
}

Cancel::Link::~Link() {
  const std::scoped_lock lock(state_->mutex);
  state_->actions.erase(id_);
}

}  // namespace ublk_operator::kube
