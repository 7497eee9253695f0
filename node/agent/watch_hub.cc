#include "node/agent/watch_hub.h"

#include <poll.h>
#include <sys/inotify.h>
#include <unistd.h>

#include <array>
#include <cstring>

namespace ublk_operator {

Result<std::unique_ptr<WatchHub>> WatchHub::create() {
  UniqueFd inotify(::inotify_init1(IN_CLOEXEC | IN_NONBLOCK));
  if (!inotify.valid())
    return errno_error("inotify_init", "", "fs.inotify.max_user_instances may be used up");
  auto stop = EventFd::create();
  if (!stop) return std::move(stop).error();
  return std::unique_ptr<WatchHub>(new WatchHub(std::move(inotify), std::move(stop).value()));
}

WatchHub::WatchHub(UniqueFd inotify, EventFd stop)
    : inotify_(std::move(inotify)), stop_(std::move(stop)), thread_([this] { run(); }) {}

WatchHub::~WatchHub() {
  stop_.signal();
  thread_.join();
}

void WatchHub::Watch::reset() {
  if (hub_ != nullptr) hub_->unwatch(id_);
  hub_ = nullptr;
}

Result<WatchHub::Watch> WatchHub::watch(const std::string& path, uint32_t mask, Callback callback) {
  const std::scoped_lock lock(mutex_);
  // Another subscriber may watch the same inode: IN_MASK_ADD keeps its events.
  const int descriptor = ::inotify_add_watch(inotify_.get(), path.c_str(), mask | IN_MASK_ADD);
  if (descriptor < 0) return errno_error("inotify_add_watch", path);
  const uint64_t id = next_id_++;
  subscribers_.emplace(id, Subscriber{descriptor, mask, std::move(callback)});
  return Watch(this, id);
}

void WatchHub::unwatch(uint64_t id) {
  const std::scoped_lock lock(mutex_);
  const auto it = subscribers_.find(id);
  if (it == subscribers_.end()) return;
  const int descriptor = it->second.descriptor;
  subscribers_.erase(it);
  for (const auto& [other, subscriber] : subscribers_)
    if (subscriber.descriptor == descriptor) return;
  ::inotify_rm_watch(inotify_.get(), descriptor);  // EINVAL when the inode is gone already: fine
}

void WatchHub::deliver(int descriptor, uint32_t mask, const std::string& name) {
  const std::scoped_lock lock(mutex_);
  for (auto& [id, subscriber] : subscribers_) {
    const bool overflow = (mask & IN_Q_OVERFLOW) != 0;  // events were lost: everybody looks again
    if (overflow || (subscriber.descriptor == descriptor && (subscriber.mask & mask) != 0))
      subscriber.callback(mask, name);
  }
  if ((mask & IN_IGNORED) != 0) {
    // The inode is gone; its number may be given to another watch.
    for (auto& [id, subscriber] : subscribers_)
      if (subscriber.descriptor == descriptor) subscriber.descriptor = -1;
  }
}

void WatchHub::run() {
  alignas(inotify_event) std::array<char, 16384> buffer{};
  std::array<pollfd, 2> fds{pollfd{inotify_.get(), POLLIN, 0}, pollfd{stop_.fd(), POLLIN, 0}};
  while (true) {
    if (::poll(fds.data(), fds.size(), -1) < 0 && errno == EINTR) continue;
    if (fds[1].revents != 0) return;
    const ssize_t n = ::read(inotify_.get(), buffer.data(), buffer.size());
    for (ssize_t at = 0; at < n;) {
      inotify_event event{};
      std::memcpy(&event, buffer.data() + at, sizeof event);
      const char* name = buffer.data() + at + sizeof event;
      deliver(event.wd, event.mask, event.len > 0 ? std::string(name) : std::string());
      at += static_cast<ssize_t>(sizeof event + event.len);
    }
  }
}

}  // namespace ublk_operator
