// ManifestFolder: a folder of UblkVolume manifests (*.yaml, *.yml, *.json, not hidden) as the
// source of what is wanted. Level-triggered: scan() reads the whole folder and says for every
// volume what is wanted now; the caller compares.
// Removal  only what the folder itself says: a file deleted or moved away, or a document taken out
//          of a file that is otherwise whole, while the folder is the very one (file system, inode,
//          birth) that the volume came from; and only once that has been so for settle_time, since
//          many editors move a file away before they write it anew. A folder that vanished, was
//          unmounted, replaced, or cannot be read removes nothing; nor does a broken, empty or
//          half-written file (one that somebody has open for writing: F_SETLEASE F_RDLCK is
//          refused).
// Threads  one thread; fd() is for poll.
#pragma once
#include <chrono>
#include <map>
#include <optional>
#include <set>
#include <string>
#include <vector>

#include "common/api/decode.h"
#include "common/api/volume.h"
#include "common/base/result.h"
#include "common/base/unique_fd.h"
#include "node/agent/volume_source.h"

namespace ublk_operator {

struct FolderView {
  bool readable = false;  // false: nothing below is known, nothing was removed
  std::string unreadable_reason;
  std::string directory_identity;
  std::map<std::string, WantedVolume> volumes;
  // Files of which it is not known which volumes they hold (not YAML, empty, being written):
  // volumes that came from one of them are kept.
  std::set<std::string> opaque_files;
  std::set<std::string> unsettled;  // volumes missing for less than settle_time: kept
  // Of whole files, and duplicates of one name in two files (the one accepted before, else the
  // first by file name, is taken).
  std::vector<Problem> problems;
};

// Should the volume of this record go, given what the folder says? Pure; the one place that answers
// it.
[[nodiscard]] bool is_removed(const VolumeRecord& record, const FolderView& view);

class ManifestFolder {
 public:
  static constexpr std::chrono::milliseconds settle_time{300};

  // The folder need not exist; what is there of the path to it is watched until it does.
  [[nodiscard]] static Result<ManifestFolder> open(const std::string& path,
                                                   std::chrono::milliseconds settle = settle_time);

  // Readable: call process_events(). Wakes for changes of the folder, for it coming and going, for
  // mounts over it, and by a timer for what scan() said is not settled yet.
  [[nodiscard]] int fd() const { return epoll_.get(); }
  // Drains the events; true: scan() again now. (IN_CREATE alone is no reason: the file is still
  // being written.)
  [[nodiscard]] bool process_events();
  // `accepted`: volume name to the file its accepted manifest is in, to settle duplicates and to
  // see what is missing.
  [[nodiscard]] FolderView scan(const std::map<std::string, std::string>& accepted);

  // For the local API: writes the manifest of this one volume, atomically: in the file that holds
  // it alone, else in a new NAME.yaml. EROFS: not writable; EEXIST: the name stands in a file with
  // other volumes, or one that cannot be replaced (detail names the file to edit); EBUSY: somebody
  // is writing that file; ENOENT: the folder is not there.
  [[nodiscard]] Result<void> write_manifest(const std::string& name, const std::string& text,
                                            const std::optional<std::string>& accepted_file);
  // Removes the file of this volume; EEXIST when it holds others too or cannot be read (detail says
  // to edit it). A file that is gone, or that no longer holds the volume, is fine.
  [[nodiscard]] Result<void> remove_manifest(const std::string& name, const std::string& file);
  [[nodiscard]] const std::string& path() const { return path_; }

 private:
  using Clock = std::chrono::steady_clock;
  ManifestFolder() = default;
  [[nodiscard]] Result<void> init();
  void watch_folder(int directory);
  void watch_ancestor();
  void wake_at(Clock::time_point time);
  void settle(const std::map<std::string, std::string>& accepted, FolderView& view);
  FolderView read_folder(const std::map<std::string, std::string>& accepted);

  std::string path_;
  std::chrono::milliseconds settle_{};
  UniqueFd epoll_;
  UniqueFd inotify_;
  UniqueFd timer_;
  UniqueFd mounts_;
  int folder_watch_ = -1;
  int ancestor_watch_ = -1;
  std::string ancestor_child_;  // name in the watched ancestor that leads to the folder
  std::string seen_identity_;   // of the folder at the last scan; empty: it was not there
  std::map<std::string, Clock::time_point> absent_since_;  // accepted volumes the folder lacks
  std::map<std::string, int> busy_tries_;  // files open for writing: how often looked at since
  std::optional<Clock::time_point> wake_;
};

}  // namespace ublk_operator
