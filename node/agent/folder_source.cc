#include "node/agent/folder_source.h"

#include <sys/utsname.h>

#include <utility>

namespace ublk_operator {

namespace {

class FolderSource : public VolumeSource {
 public:
  FolderSource(ManifestFolder folder, std::string node_name)
      : folder_(std::move(folder)), node_name_(std::move(node_name)) {}

  int fd() const override { return folder_.fd(); }
  bool process_events() override { return folder_.process_events(); }
  SourceView scan(const std::map<std::string, AcceptedVolume>& accepted) override;

  Result<void> write_manifest(const std::string& name, const std::string& text,
                              const std::optional<SourceIdentity>& accepted) override {
    return folder_.write_manifest(name, text,
                                  accepted ? std::optional(accepted->file) : std::nullopt);
  }
  Result<void> remove_manifest(const std::string& name, const SourceIdentity& accepted) override {
    return folder_.remove_manifest(name, accepted.file);
  }

 private:
  ManifestFolder folder_;
  const std::string node_name_;
};

SourceView FolderSource::scan(const std::map<std::string, AcceptedVolume>& accepted) {
  std::map<std::string, std::string> files;
  for (const auto& [name, volume] : accepted) files[name] = volume.source.file;
  FolderView folder = folder_.scan(files);
  SourceView view;
  view.problems = std::move(folder.problems);
  if (!folder.readable) {
    view.problems.push_back(
        {folder_.path(), 0, 0, "",
         folder.unreadable_reason + "; the volumes that came from it go on as they are"});
    return view;
  }
  for (const auto& [name, volume] : accepted) {
    VolumeRecord record;
    record.volume.metadata.name = name;
    record.source = volume.source;
    if (is_removed(record, folder)) view.removed.emplace(name, RemovedVolume{});
  }
  for (auto& [name, wanted] : folder.volumes) {
    if (wanted.volume && !wanted.volume->spec.node_name.empty() &&
        wanted.volume->spec.node_name != node_name_) {
      wanted.problems.insert(
          wanted.problems.begin(),
          {wanted.source.file, 0, 0, "spec.nodeName",
           "is '" + wanted.volume->spec.node_name + "', and this machine is '" + node_name_ +
               "'; take the field out, or the manifest to the machine it names"});
      wanted.volume.reset();
    }
    view.volumes.emplace(name, std::move(wanted));
  }
  return view;
}

}  // namespace

Result<std::unique_ptr<VolumeSource>> open_folder_source(const std::string& path,
                                                         std::string node_name) {
  auto folder = ManifestFolder::open(path);
  if (!folder) return std::move(folder).error();
  return std::unique_ptr<VolumeSource>(
      std::make_unique<FolderSource>(std::move(*folder), std::move(node_name)));
}

std::string machine_name() {
  utsname name{};
  return ::uname(&name) == 0 ? name.nodename : "";
}

}  // namespace ublk_operator
