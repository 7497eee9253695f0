#include "common/kube/elector.h"

#include <cerrno>

namespace ublk_operator::kube {

namespace {

using std::chrono::system_clock;
constexpr std::chrono::seconds call_silence{5};
constexpr std::chrono::seconds release_silence{2};

}  // namespace

LeaderElector::LeaderElector(std::shared_ptr<Transport> transport, LeaderElection::Options options,
                             Callbacks callbacks, Logger log)
    : client_(std::move(transport), call_silence),
      path_(lease_resource(options.namespace_name).path(options.name)),
      paths_(lease_resource(options.namespace_name).path()),
      identity_(options.identity),
      callbacks_(std::move(callbacks)),
      log_(std::move(log)),
      election_(std::move(options)) {}

LeaderElector::~LeaderElector() { release(); }

void LeaderElector::start() {
  thread_ = std::thread([this] { run(); });
}

void LeaderElector::observed(const nlohmann::json* lease) {
  {
    const std::scoped_lock lock(mutex_);
    election_.observed(lease, Clock::now());
    poked_ = true;
  }
  changed_.notify_all();
}

bool LeaderElector::leads() const {
  const std::scoped_lock lock(mutex_);
  return !stopping_ && election_.leads(Clock::now());
}

void LeaderElector::run() {
  for (;;) {
    LeaderElection::Step step;
    {
      std::unique_lock lock(mutex_);
      if (stopping_) return;
      poked_ = false;
      step = election_.next(Clock::now(), system_clock::now(),
                            std::uniform_real_distribution<double>(0, 1)(random_));
      if (const auto* wait = std::get_if<LeaderElection::Wait>(&step)) {
        changed_.wait_until(lock, wait->until, [this] { return stopping_ || poked_; });
        continue;
      }
    }
    if (const auto* lost = std::get_if<LeaderElection::Lost>(&step)) {
      log_->error("operation=lead identity={} lost=\"{}\"", identity_, lost->why);
      callbacks_.on_lost(lost->why);
      return;
    }
    execute(step);
    bool now_leading = false;
    {
      const std::scoped_lock lock(mutex_);
      now_leading = !stopping_ && !told_leading_ && election_.leads(Clock::now());
      told_leading_ = told_leading_ || now_leading;
    }
    if (!now_leading) continue;
    log_->info("operation=lead identity={} this process leads now", identity_);
    callbacks_.on_leading();
  }
}

void LeaderElector::execute(const LeaderElection::Step& step) {
  const auto begun = Clock::now();
  if (std::holds_alternative<LeaderElection::Look>(step)) {
    const auto lease = client_.get(path_, cancel_);
    const std::scoped_lock lock(mutex_);
    election_.looked(lease, begun, Clock::now());
    if (lease.err() != ENOENT) say(lease);
    return;
  }
  const auto& write = std::get<LeaderElection::Write>(step);
  const auto lease = write.create ? client_.create(paths_, write.lease, cancel_)
                                  : client_.update(path_, write.lease, cancel_);
  const std::scoped_lock lock(mutex_);
  election_.written(lease, begun, Clock::now());
  // Somebody else was quicker: as it is to be.
  if (lease.err() != EBUSY && lease.err() != EEXIST) say(lease);
}

void LeaderElector::say(const Result<nlohmann::json>& how) {
  if (stopping_) return;
  if (!how && !failing_)
    log_->warn("operation=lease error=\"{}\" retry=true", how.error().to_string());
  if (how && failing_) log_->info("operation=lease the API server answers again");
  failing_ = !how.ok();
}

void LeaderElector::release() {
  {
    const std::scoped_lock lock(mutex_);
    stopping_ = true;
  }
  changed_.notify_all();
  cancel_.cancel();
  if (!thread_.joinable()) return;
  thread_.join();
  // No thread any more. A renewal that was cut off may have come through all the same: then the
  // version is another, and one look tells.
  auto lease = election_.release(system_clock::now());
  if (!lease) return;
  const KubeClient client(client_.transport(), release_silence);
  const Cancel never;
  auto released = client.update(path_, *lease, never);
  if (released.err() == EBUSY) {
    const auto begun = Clock::now();
    election_.looked(client.get(path_, never), begun, Clock::now());
    lease = election_.release(system_clock::now());
    if (lease) released = client.update(path_, *lease, never);
  }
  if (!released)
    log_->warn("operation=release_lease error=\"{}\" the next leader waits for its end",
               released.error().to_string());
}

}  // namespace ublk_operator::kube
