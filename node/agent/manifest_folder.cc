#include "node/agent/manifest_folder.h"

#include <dirent.h>
#include <fcntl.h>
#include <sys/epoll.h>
#include <sys/inotify.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <sys/timerfd.h>
#include <sys/vfs.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cinttypes>
#include <csignal>
#include <cstdio>
#include <cstring>
#include <memory>
#include <string_view>
#include <utility>

#include "common/base/files.h"
#include "common/base/limits.h"

namespace ublk_operator {

namespace {

using std::chrono::milliseconds;

constexpr uint32_t folder_events = IN_CLOSE_WRITE | IN_MOVED_TO | IN_MOVED_FROM | IN_CREATE |
                                   IN_DELETE | IN_DELETE_SELF | IN_MOVE_SELF | IN_ATTRIB |
                                   IN_ONLYDIR;
constexpr uint32_t ancestor_events = IN_CREATE | IN_MOVED_TO | IN_MOVED_FROM | IN_DELETE |
                                     IN_DELETE_SELF | IN_MOVE_SELF | IN_ATTRIB | IN_ONLYDIR;
// A manifest each, and as many that are in the way.
constexpr size_t files_max = 2 * limits::volumes_max;
// IN_CLOSE_WRITE is sent just before the kernel counts the writer out (fs/file_table.c: __fput), so
// a file can look open for writing right after its event, and no further event comes. It is looked
// at again after 1, 2, 4 ... ms, about two seconds in all; from then on only the writer's close
// counts.
constexpr int busy_tries_max = 11;

struct DirectoryCloser {
  void operator()(DIR* directory) const { ::closedir(directory); }
};
using Directory = std::unique_ptr<DIR, DirectoryCloser>;

std::string base_name(const std::string& path) { return path.substr(path.rfind('/') + 1); }

bool is_manifest_name(std::string_view name) {
  return !name.starts_with('.') &&
         (name.ends_with(".yaml") || name.ends_with(".yml") || name.ends_with(".json"));
}

Problem problem_of(const std::string& file, std::string message) {
  return {file, 0, 0, "", std::move(message)};
}

// The very folder: an inode number alone comes back when a folder is deleted and made again.
std::string identity_of(int directory) {
  struct statfs fs{};
  struct statx info{};
  if (::fstatfs(directory, &fs) < 0 ||
      ::statx(directory, "", AT_EMPTY_PATH, STATX_INO | STATX_NLINK | STATX_BTIME, &info) < 0 ||
      info.stx_nlink == 0)
    return {};
  uint64_t id = 0;
  static_assert(sizeof fs.f_fsid == sizeof id);
  std::memcpy(&id, &fs.f_fsid, sizeof id);
  char text[96];
  if (id != 0)
    std::snprintf(text, sizeof text, "%016" PRIx64 ":%" PRIu64, id, uint64_t{info.stx_ino});
  else  // a file system without an id: holds for this mount
    std::snprintf(text, sizeof text, "dev-%u-%u:%" PRIu64, info.stx_dev_major, info.stx_dev_minor,
                  uint64_t{info.stx_ino});
  std::string identity = text;
  if ((info.stx_mask & STATX_BTIME) != 0) {
    std::snprintf(text, sizeof text, ":%" PRId64 ".%09u", int64_t{info.stx_btime.tv_sec},
                  info.stx_btime.tv_nsec);
    identity += text;
  }
  return identity;
}

UniqueFd open_folder(const std::string& path) {
  return UniqueFd(::open(path.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
}

std::string current_identity(const std::string& path) {
  const UniqueFd directory(::open(path.c_str(), O_PATH | O_DIRECTORY | O_CLOEXEC));
  return directory.valid() ? identity_of(directory.get()) : std::string();
}

enum class Lease { held, refused_writer, unsupported };

// Held, no process has the file open for writing, and whoever opens it so meanwhile waits until we
// are done. A file system or an owner without leases costs only this safety.
Lease take_lease(int fd) {
  // The kernel tells the holder of a lease that somebody waits, by SIGIO, which would end this
  // process; SIGURG is ignored unless asked for.
  if (::fcntl(fd, F_SETSIG, SIGURG) < 0) return Lease::unsupported;
  if (::fcntl(fd, F_SETLEASE, F_RDLCK) == 0) return Lease::held;
  return errno == EAGAIN ? Lease::refused_writer : Lease::unsupported;
}

struct ManifestText {
  enum { gone, busy, unreadable, whole } state = gone;
  std::string text;  // whole: the content; busy, unreadable: why
};

ManifestText read_text(int fd) {
  ManifestText result{ManifestText::whole, {}};
  char buffer[16384];
  while (true) {
    const ssize_t n = ::read(fd, buffer, sizeof buffer);
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) return {ManifestText::unreadable, "cannot be read: " + errno_name(errno)};
    if (n == 0) return result;
    result.text.append(buffer, static_cast<size_t>(n));
    if (result.text.size() > limits::manifest_bytes_max)
      return {ManifestText::unreadable,
              "larger than " + std::to_string(limits::manifest_bytes_max) + " bytes"};
  }
}

ManifestText read_manifest(int directory, const std::string& name) {
  const UniqueFd fd(
      ::openat(directory, name.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY));
  if (!fd.valid()) {
    const int err = errno;
    struct stat info{};
    if (err == ENOENT && ::fstatat(directory, name.c_str(), &info, AT_SYMLINK_NOFOLLOW) < 0 &&
        errno == ENOENT)
      return {ManifestText::gone, {}};
    if (err == ENOENT) return {ManifestText::unreadable, "is a symbolic link to nothing"};
    return {ManifestText::unreadable, "cannot be opened: " + errno_name(err)};
  }
  struct stat info{};
  if (::fstat(fd.get(), &info) < 0)
    return {ManifestText::unreadable, "cannot be read: " + errno_name(errno)};
  if (!S_ISREG(info.st_mode)) return {ManifestText::unreadable, "is not a regular file"};
  const Lease lease = take_lease(fd.get());
  if (lease == Lease::refused_writer)
    return {ManifestText::busy, "is still open for writing; it counts once its writer closed it"};
  ManifestText result = read_text(fd.get());
  if (lease == Lease::held) (void)::fcntl(fd.get(), F_SETLEASE, F_UNLCK);
  return result;
}

// Names of manifests, sorted.
Result<std::vector<std::string>> list_manifests(int directory, const std::string& path) {
  // A descriptor of its own: reading moves its position, and fdopendir takes it over.
  const int own = ::openat(directory, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  if (own < 0) return errno_error("open", path);
  const Directory entries(::fdopendir(own));
  if (!entries) return errno_error("fdopendir", path);
  std::vector<std::string> names;
  while (true) {
    errno = 0;
    const dirent* entry = ::readdir(entries.get());
    if (entry == nullptr) {
      if (errno != 0) return errno_error("readdir", path);
      break;
    }
    if (!is_manifest_name(entry->d_name)) continue;
    if (names.size() == files_max)
      return Error{E2BIG, "readdir", path,
                   "holds more than " + std::to_string(files_max) + " manifests"};
    names.emplace_back(entry->d_name);
  }
  std::sort(names.begin(), names.end());
  return names;
}

// What one file says: which documents of which volumes, in their order. Not opaque: that is all.
struct FileContent {
  bool opaque = false;
  std::vector<DecodedDocument> documents;
  std::vector<Problem> problems;
};

FileContent decode_file(const ManifestText& manifest, const std::string& file) {
  FileContent content;
  if (manifest.state != ManifestText::whole) {
    content.opaque = true;
    content.problems.push_back(problem_of(file, manifest.text));
    return content;
  }
  DecodedManifest decoded = decode_manifest(manifest.text, file);
  content.problems = std::move(decoded.problems);
  content.opaque = !content.problems.empty();
  if (content.problems.empty() && decoded.documents.empty()) {
    content.opaque = true;  // truncated, most likely: `> vol.yaml` before it is filled
    content.problems.push_back(
        problem_of(file, "holds no document; delete the file if its volumes are to be removed"));
  }
  for (DecodedDocument& document : decoded.documents) {
    if (document.name.empty()) {
      // It is one volume's, but whose is not known.
      content.opaque = true;
      content.problems.insert(content.problems.end(), document.problems.begin(),
                              document.problems.end());
      continue;
    }
    content.documents.push_back(std::move(document));
  }
  return content;
}

// Who alone stands in this file?
enum class Holds { nothing_of_it, it_alone, others_too, unknown };
Holds holds(const FileContent& content, const std::string& name) {
  if (content.opaque) return Holds::unknown;
  const bool it = std::any_of(content.documents.begin(), content.documents.end(),
                              [&](const DecodedDocument& d) { return d.name == name; });
  const bool others = std::any_of(content.documents.begin(), content.documents.end(),
                                  [&](const DecodedDocument& d) { return d.name != name; });
  if (!it) return Holds::nothing_of_it;
  return others ? Holds::others_too : Holds::it_alone;
}

bool is_link(int directory, const std::string& name) {
  struct stat info{};
  return ::fstatat(directory, name.c_str(), &info, AT_SYMLINK_NOFOLLOW) == 0 &&
         S_ISLNK(info.st_mode);
}

// A file that appears whole: a symbolic link, or one more name of a file. Neither is ever closed.
bool appears_whole(const std::string& path) {
  struct stat info{};
  return ::lstat(path.c_str(), &info) == 0 &&
         (S_ISLNK(info.st_mode) || (S_ISREG(info.st_mode) && info.st_nlink > 1));
}

Error write_error(const char* operation, const std::string& path, int err) {
  std::string detail;
  if (err == EROFS) detail = "the folder of manifests is mounted read-only: edit its source";
  if (err == EACCES || err == EPERM) detail = "the agent may not write in the folder of manifests";
  return {err, operation, path, std::move(detail)};
}

}  // namespace

bool is_removed(const VolumeRecord& record, const FolderView& view) {
  if (!view.readable) return false;
  if (record.source.directory_identity.empty() ||
      record.source.directory_identity != view.directory_identity)
    return false;
  const std::string& name = record.volume.metadata.name;
  if (view.volumes.contains(name) || view.unsettled.contains(name)) return false;
  // By the name within the folder: the path to the same folder may be spelt in another way now.
  const std::string file = base_name(record.source.file);
  return std::none_of(view.opaque_files.begin(), view.opaque_files.end(),
                      [&](const std::string& opaque) { return base_name(opaque) == file; });
}

Result<ManifestFolder> ManifestFolder::open(const std::string& path, milliseconds settle) {
  ManifestFolder folder;
  folder.path_ = path;
  while (folder.path_.size() > 1 && folder.path_.ends_with('/')) folder.path_.pop_back();
  folder.settle_ = settle;
  if (auto done = folder.init(); !done) return done.error();
  return folder;
}

Result<void> ManifestFolder::init() {
  epoll_.reset(::epoll_create1(EPOLL_CLOEXEC));
  if (!epoll_.valid()) return errno_error("epoll_create", path_);
  inotify_.reset(::inotify_init1(IN_NONBLOCK | IN_CLOEXEC));
  if (!inotify_.valid())
    return errno_error("inotify_init", path_,
                       errno == EMFILE ? "raise fs.inotify.max_user_instances" : "");
  timer_.reset(::timerfd_create(CLOCK_MONOTONIC, TFD_NONBLOCK | TFD_CLOEXEC));
  if (!timer_.valid()) return errno_error("timerfd_create", path_);
  // inotify says nothing about a file system that is mounted over the folder; this does. Without
  // /proc only that is lost.
  mounts_.reset(::open("/proc/self/mountinfo", O_RDONLY | O_CLOEXEC));
  const std::pair<int, uint32_t> sources[] = {
      {inotify_.get(), EPOLLIN}, {timer_.get(), EPOLLIN}, {mounts_.get(), EPOLLPRI | EPOLLERR}};
  for (const auto& [source, events] : sources) {
    if (source < 0) continue;
    struct epoll_event event{};
    event.events = events;
    event.data.fd = source;
    if (::epoll_ctl(epoll_.get(), EPOLL_CTL_ADD, source, &event) < 0)
      return errno_error("epoll_ctl", path_);
  }
  watch_ancestor();
  const UniqueFd directory = open_folder(path_);
  watch_folder(directory.get());
  return {};
}

void ManifestFolder::watch_folder(int directory) {
  int fresh = -1;
  if (directory >= 0) {
    // The folder that is read, whatever lies at its path by now.
    const std::string handle = "/proc/self/fd/" + std::to_string(directory);
    fresh = ::inotify_add_watch(inotify_.get(), handle.c_str(), folder_events);
  }
  if (folder_watch_ >= 0 && folder_watch_ != fresh && folder_watch_ != ancestor_watch_)
    (void)::inotify_rm_watch(inotify_.get(), folder_watch_);
  folder_watch_ = fresh;
}

// The nearest folder above that is there: it says when the next part of the path comes or goes.
void ManifestFolder::watch_ancestor() {
  int fresh = -1;
  // Again when what was missing below came before it was watched; one part of the path at a time.
  for (int attempt = 0; attempt < 64; ++attempt) {
    std::string above = path_;
    std::string below;
    do {
      const size_t slash = above.rfind('/');
      ancestor_child_ = above.substr(slash == std::string::npos ? 0 : slash + 1);
      below = above;
      above = slash == std::string::npos ? "." : slash == 0 ? "/" : above.substr(0, slash);
      fresh = ::inotify_add_watch(inotify_.get(), above.c_str(), ancestor_events);
    } while (fresh < 0 && above != "/" && above != ".");
    // What was added on the way up in an earlier round is watched in vain from now on.
    if (ancestor_watch_ >= 0 && ancestor_watch_ != fresh && ancestor_watch_ != folder_watch_)
      (void)::inotify_rm_watch(inotify_.get(), ancestor_watch_);
    ancestor_watch_ = fresh;
    if (below == path_ || ::access(below.c_str(), F_OK) < 0) return;
  }
}

bool ManifestFolder::process_events() {
  bool rescan = false;
  alignas(inotify_event) char buffer[16384];
  while (true) {
    const ssize_t bytes = ::read(inotify_.get(), buffer, sizeof buffer);
    if (bytes < 0 && errno == EINTR) continue;
    if (bytes <= 0) break;
    for (ssize_t at = 0; at < bytes;) {
      const auto* event = reinterpret_cast<const inotify_event*>(buffer + at);
      at += static_cast<ssize_t>(sizeof(inotify_event) + event->len);
      const std::string name = event->len > 0 ? event->name : "";
      if ((event->mask & IN_Q_OVERFLOW) != 0) rescan = true;
      if (event->wd == ancestor_watch_ && (name.empty() || name == ancestor_child_)) rescan = true;
      if (event->wd == folder_watch_) {
        if ((event->mask & IN_CLOSE_WRITE) != 0) busy_tries_.erase(name);
        // No name: the folder itself was deleted, moved, unmounted or given another mode. Two dots:
        // how Kubernetes swaps the content of a mounted ConfigMap ("..data").
        if (name.empty() || name.starts_with(".."))
          rescan = true;
        else if (is_manifest_name(name))
          rescan = rescan || (event->mask & IN_CREATE) == 0 || appears_whole(path_ + "/" + name);
      }
      // The number may be given to another watch: forget it, scan() makes a new one.
      if ((event->mask & IN_IGNORED) != 0 && event->wd == folder_watch_) folder_watch_ = -1;
      if ((event->mask & IN_IGNORED) != 0 && event->wd == ancestor_watch_) ancestor_watch_ = -1;
    }
  }
  uint64_t expirations = 0;
  if (::read(timer_.get(), &expirations, sizeof expirations) > 0) rescan = true;
  // The mount table changed, perhaps; epoll has forgotten which source it was, and this is cheap.
  return rescan || current_identity(path_) != seen_identity_;
}

void ManifestFolder::wake_at(Clock::time_point time) {
  if (!wake_ || time < *wake_) wake_ = time;
}

FolderView ManifestFolder::scan(const std::map<std::string, std::string>& accepted) {
  wake_.reset();
  FolderView view = read_folder(accepted);
  settle(accepted, view);
  struct itimerspec spec{};
  if (wake_) {
    const auto left = std::max(*wake_ - Clock::now(), Clock::duration(milliseconds(1)));
    const auto seconds = std::chrono::duration_cast<std::chrono::seconds>(left);
    spec.it_value.tv_sec = seconds.count();
    spec.it_value.tv_nsec =
        std::chrono::duration_cast<std::chrono::nanoseconds>(left - seconds).count();
  }
  (void)::timerfd_settime(timer_.get(), 0, &spec, nullptr);
  return view;
}

// What was accepted and is missing now counts as missing only after a while.
void ManifestFolder::settle(const std::map<std::string, std::string>& accepted, FolderView& view) {
  const auto now = Clock::now();
  std::map<std::string, Clock::time_point> absent;
  for (const auto& [name, file] : accepted) {
    if (!view.readable || view.volumes.contains(name)) continue;
    if (view.opaque_files.contains(path_ + "/" + base_name(file))) continue;  // not known
    const auto before = absent_since_.find(name);
    const auto since = before == absent_since_.end() ? now : before->second;
    absent[name] = since;
    if (now - since >= settle_) continue;
    view.unsettled.insert(name);
    wake_at(since + settle_);
  }
  absent_since_ = std::move(absent);
}

FolderView ManifestFolder::read_folder(const std::map<std::string, std::string>& accepted) {
  FolderView view;
  // Watched before it is opened, and again before it is read: what changes from here on wakes us.
  watch_ancestor();
  const UniqueFd directory = open_folder(path_);
  const int open_error = errno;
  watch_folder(directory.get());
  seen_identity_ = directory.valid() ? identity_of(directory.get()) : std::string();
  if (!directory.valid()) {
    view.unreadable_reason = Error{open_error, "open", path_, ""}.to_string();
    return view;
  }
  if (seen_identity_.empty()) {
    view.unreadable_reason = "ENOENT scan " + path_ + ": the folder was just deleted";
    return view;
  }
  view.directory_identity = seen_identity_;
  auto names = list_manifests(directory.get(), path_);
  if (!names) {
    view.unreadable_reason = names.error().to_string();
    return view;
  }

  std::map<std::string, int> busy;
  std::map<std::string, FileContent> files;  // by name in the folder
  for (const std::string& name : *names) {
    const std::string file = path_ + "/" + name;
    const ManifestText manifest = read_manifest(directory.get(), name);
    if (manifest.state == ManifestText::gone) continue;
    if (manifest.state == ManifestText::busy) {
      const auto before = busy_tries_.find(name);
      const int tries = before == busy_tries_.end() ? 0 : before->second;
      if (tries < busy_tries_max) wake_at(Clock::now() + milliseconds(1 << tries));
      busy[name] = std::min(tries + 1, busy_tries_max);
    }
    FileContent content = decode_file(manifest, file);
    view.problems.insert(view.problems.end(), content.problems.begin(), content.problems.end());
    if (content.opaque) view.opaque_files.insert(file);
    files.emplace(name, std::move(content));
  }
  busy_tries_ = std::move(busy);

  const auto accepted_in = [&](const std::string& volume) {
    const auto found = accepted.find(volume);
    return found == accepted.end() ? std::string() : base_name(found->second);
  };
  // A volume whose own file cannot be understood now is not taken over by a namesake in another.
  const auto kept_by = [&](const std::string& volume, const std::string& file) {
    const std::string own = accepted_in(volume);
    const auto found = files.find(own);
    return own != file && found != files.end() && found->second.opaque;
  };
  const auto add = [&](const std::string& file, const DecodedDocument& document) {
    const std::string path = path_ + "/" + file;
    const auto [present, added] = view.volumes.try_emplace(document.name);
    WantedVolume& wanted = present->second;
    if (!added) {
      if (wanted.source.file == path) {  // twice in one file: the decoder says so
        wanted.problems.insert(wanted.problems.end(), document.problems.begin(),
                               document.problems.end());
        return;
      }
      const Problem duplicate{path, document.line, 1, "metadata.name",
                              "volume '" + document.name + "' stands in " + wanted.source.file +
                                  " already, which is used; remove one of the two"};
      wanted.problems.push_back(duplicate);
      view.problems.push_back(duplicate);
      return;
    }
    wanted.source = {path, view.directory_identity};
    wanted.volume = document.volume;
    wanted.problems = document.problems;
  };
  for (auto& [file, content] : files)
    for (const DecodedDocument& document : content.documents) {
      if (kept_by(document.name, file)) {
        WantedVolume& wanted = view.volumes[document.name];
        wanted.source = {path_ + "/" + accepted_in(document.name), view.directory_identity};
        wanted.problems = files.at(accepted_in(document.name)).problems;
      } else if (accepted_in(document.name) == file) {
        add(file, document);
      }
    }
  for (auto& [file, content] : files)
    for (const DecodedDocument& document : content.documents)
      if (accepted_in(document.name) != file) add(file, document);

  // A volume that is not found because its own file cannot be understood is kept, and has to say
  // why. Not for a file that somebody writes just now: a moment later it is whole, or stays so.
  for (const auto& [volume, accepted_file] : accepted) {
    const auto own = files.find(base_name(accepted_file));
    if (own == files.end() || !own->second.opaque || view.volumes.contains(volume)) continue;
    const auto writing = busy_tries_.find(own->first);
    if (writing != busy_tries_.end() && writing->second < busy_tries_max) continue;
    WantedVolume& wanted = view.volumes[volume];
    wanted.source = {path_ + "/" + own->first, view.directory_identity};
    wanted.problems = own->second.problems;
  }

  if (current_identity(path_) != seen_identity_) {
    // Deleted or replaced while it was read: what was found may be half of it.
    FolderView nothing;
    nothing.unreadable_reason =
        "ESTALE scan " + path_ + ": the folder was replaced while it was read";
    seen_identity_.clear();
    wake_at(Clock::now());
    return nothing;
  }
  view.readable = true;
  return view;
}

Result<void> ManifestFolder::write_manifest(const std::string& name, const std::string& text,
                                            const std::optional<std::string>& accepted_file) {
  const UniqueFd directory = open_folder(path_);
  if (!directory.valid())
    return errno_error("open", path_, "the folder of manifests is not there: make or mount it");
  auto names = list_manifests(directory.get(), path_);
  if (!names) return names.error();

  // The accepted file first; then whatever else holds the name, for instance a manifest that was
  // written a moment ago and is not accepted yet.
  std::string target = file_stem(name) + ".yaml";
  if (accepted_file) {
    const auto accepted = std::find(names->begin(), names->end(), base_name(*accepted_file));
    if (accepted != names->end()) std::rotate(names->begin(), accepted, accepted + 1);
  }
  for (const std::string& file : *names) {
    const std::string path = path_ + "/" + file;
    const ManifestText manifest = read_manifest(directory.get(), file);
    if (manifest.state == ManifestText::gone) continue;
    const bool own = file == target || (accepted_file && file == base_name(*accepted_file));
    if (manifest.state == ManifestText::busy && own)
      return Error{EBUSY, "write_manifest", path, manifest.text};
    const Holds held = holds(decode_file(manifest, path), name);
    if (held == Holds::others_too)
      return Error{EEXIST, "write_manifest", path,
                   "volume '" + name + "' stands there with other volumes: edit this file"};
    if (held == Holds::it_alone) {
      target = file;
      break;
    }
    if (own && held == Holds::unknown)
      return Error{EEXIST, "write_manifest", path,
                   "cannot be understood and may hold other volumes: repair or remove this file"};
    if (file == target)
      return Error{EEXIST, "write_manifest", path,
                   "holds other volumes than '" + name + "': rename or edit this file"};
  }

  const std::string path = path_ + "/" + target;
  if (is_link(directory.get(), target))
    return Error{EEXIST, "write_manifest", path,
                 "is a symbolic link, which is not replaced: edit the file it points to"};
  // Hidden, so that it is no manifest, and of one name, so that nothing piles up.
  const char* temporary = ".ublk-apply.tmp";
  const UniqueFd fd(::openat(directory.get(), temporary,
                             O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC | O_NOFOLLOW, 0644));
  if (!fd.valid()) return write_error("write_manifest", path, errno);
  struct stat old{};
  if (::fstatat(directory.get(), target.c_str(), &old, AT_SYMLINK_NOFOLLOW) == 0) {
    // Who could read and edit it before can do so again; a failure takes away nobody's data.
    (void)!::fchown(fd.get(), old.st_uid, old.st_gid);
    (void)::fchmod(fd.get(), old.st_mode & 0777);
  }
  auto written = write_all(fd.get(), text, path);
  if (written && ::fsync(fd.get()) < 0) written = errno_error("fsync", path);
  if (written && ::renameat(directory.get(), temporary, directory.get(), target.c_str()) < 0)
    written = write_error("write_manifest", path, errno);
  if (!written) {
    ::unlinkat(directory.get(), temporary, 0);
    return written;
  }
  if (::fsync(directory.get()) < 0) return errno_error("fsync", path_);
  return {};
}

Result<void> ManifestFolder::remove_manifest(const std::string& name, const std::string& file) {
  const UniqueFd directory = open_folder(path_);
  if (!directory.valid())
    return errno_error("open", path_, "the folder of manifests is not there: make or mount it");
  const std::string target = base_name(file);
  const std::string path = path_ + "/" + target;
  const ManifestText manifest = read_manifest(directory.get(), target);
  if (manifest.state == ManifestText::gone) return {};
  if (manifest.state == ManifestText::busy)
    return Error{EBUSY, "remove_manifest", path, manifest.text};
  switch (holds(decode_file(manifest, path), name)) {
    case Holds::nothing_of_it:
      return {};
    case Holds::it_alone:
      break;
    case Holds::others_too:
      return Error{EEXIST, "remove_manifest", path,
                   "holds other volumes too: take '" + name + "' out of this file"};
    case Holds::unknown:
      return Error{EEXIST, "remove_manifest", path,
                   "cannot be understood and may hold other volumes: remove this file by hand"};
  }
  if (::unlinkat(directory.get(), target.c_str(), 0) < 0 && errno != ENOENT)
    return write_error("remove_manifest", path, errno);
  if (::fsync(directory.get()) < 0) return errno_error("fsync", path_);
  return {};
}

}  // namespace ublk_operator
