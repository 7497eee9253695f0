// ManifestFolder: a folder of UblkVolume manifests (*.yaml, *.yml, *.json, not hidden) as the
// source of what is wanted. Level-triggered: scan() reads the whole folder and says for every
// volume what is wanted now; the caller compares. A removal is only what the folder itself says: a
// file deleted or moved away, or a document taken out of a file that is otherwise whole, while the
// folder is the very one (file system and inode) that the volume came from. A folder that vanished,
// was unmounted, replaced, or cannot be read removes nothing; nor does a broken, empty or
// half-written file (one that somebody still has open for writing: fcntl F_SETLEASE F_RDLCK is
// refused) . Threads  one thread; fd() is for poll.
#pragma once
#include <map>
#include <optional>
#include <set>
#include <string>
#include <vector>

#include "common/api/decode.h"
#include "common/api/volume.h"
#include "common/base/result.h"
#include "common/base/unique_fd.h"
#include "node/agent/state_store.h"

namespace ublk_operator {

struct WantedVolume {
  std::optional<Volume> volume;  // empty: the manifest is broken, keep what was accepted before
  SourceIdentity source;
  std::vector<Problem>
      problems;  // why it is broken, or which of two documents of one name was passed over
};

struct FolderView {
  bool readable = false;  // false: nothing below is known, nothing was removed
  std::string unreadable_reason;
  std::string directory_identity;
  std::map<std::string, WantedVolume> volumes;
  // Files of which it is not known which volumes they hold (not YAML, empty, being written):
  // volumes that came from one of them are kept.
  std::set<std::string> opaque_files;
  std::vector<Problem> problems;  // of whole files, and duplicates of one name in two files (the
                                  // one accepted before, else the first by file name, is taken)
};

// Should the volume of this record go, given what the folder says? Pure; the one place that answers
// it.
[[nodiscard]] bool is_removed(const VolumeRecord& record, const FolderView& view);

class ManifestFolder {
 public:
  // The folder need not exist; its parent is watched until it does.
  [[nodiscard]] static Result<ManifestFolder> open(const std::string& path);

  [[nodiscard]] int fd() const { return inotify_.get(); }
  // Drains the events; true: scan() again now. (IN_CREATE alone is no reason: the file is still
  // being written.)
  [[nodiscard]] bool process_events();
  // `accepted`: volume name to the file its accepted manifest is in, to settle duplicates.
  [[nodiscard]] FolderView scan(const std::map<std::string, std::string>& accepted);

  // For the local API: adds or replaces each document's volume: in the file that holds it alone,
  // else in a new NAME.yaml. EROFS: not writable; EEXIST: the name stands in a file with other
  // volumes (detail names the file to edit).
  [[nodiscard]] Result<void> write_manifest(const std::string& name, const std::string& text,
                                            const std::optional<std::string>& accepted_file);
  // Removes the file of this volume; EEXIST when it holds others too (detail says to edit it).
  [[nodiscard]] Result<void> remove_manifest(const std::string& name, const std::string& file);
  [[nodiscard]] const std::string& path() const { return path_; }

 private:
  ManifestFolder(std::string path, UniqueFd inotify);
  void watch();
  std::string path_;
  UniqueFd inotify_;
  int folder_watch_ = -1;
  int parent_watch_ = -1;
};

}  // namespace ublk_operator
