#include "common/base/files.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>

namespace ublk_operator {

namespace {
std::string parent_of(const std::string& path) {
  const size_t slash = path.rfind('/');
  if (slash == std::string::npos) return ".";
  return slash == 0 ? "/" : path.substr(0, slash);
}

Result<void> sync_directory(const std::string& path) {
  UniqueFd fd(::open(path.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  if (!fd.valid()) return errno_error("open", path);
  if (::fsync(fd.get()) < 0) return errno_error("fsync", path);
  return {};
}
}  // namespace

Result<std::string> read_file(const std::string& path, size_t bytes_max) {
  UniqueFd fd(::open(path.c_str(), O_RDONLY | O_CLOEXEC));
  if (!fd.valid()) return errno_error("open", path);
  std::string text;
  char buffer[16384];
  while (true) {
    const ssize_t n = ::read(fd.get(), buffer, sizeof buffer);
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) return errno_error("read", path);
    if (n == 0) return text;
    text.append(buffer, static_cast<size_t>(n));
    if (text.size() > bytes_max)
      return Error{EFBIG, "read", path, "larger than " + std::to_string(bytes_max) + " bytes"};
  }
}

Result<void> write_all(int fd, std::string_view data, std::string_view object) {
  while (!data.empty()) {
    const ssize_t n = ::write(fd, data.data(), data.size());
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) return errno_error("write", object);
    data.remove_prefix(static_cast<size_t>(n));
  }
  return {};
}

Result<void> write_file_atomically(const std::string& path, std::string_view text, mode_t mode,
                                   Durability durability) {
  // A fixed name: what a crash left behind is overwritten by the next try instead of piling up.
  const std::string temporary = path + ".tmp";
  {
    UniqueFd fd(
        ::open(temporary.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC | O_NOFOLLOW, mode));
    if (!fd.valid()) return errno_error("open", temporary);
    if (auto written = write_all(fd.get(), text, temporary); !written) {
      ::unlink(temporary.c_str());
      return written;
    }
    if (durability == Durability::machine && ::fsync(fd.get()) < 0)
      return errno_error("fsync", temporary);
  }
  if (::rename(temporary.c_str(), path.c_str()) < 0) return errno_error("rename", path);
  if (durability == Durability::process) return {};
  return sync_directory(parent_of(path));
}

Result<void> remove_file_durably(const std::string& path) {
  if (::unlink(path.c_str()) < 0) {
    if (errno == ENOENT) return {};
    return errno_error("unlink", path);
  }
  return sync_directory(parent_of(path));
}

Result<void> make_directories(const std::string& path, mode_t mode) {
  for (size_t at = path.find('/', 1);; at = path.find('/', at + 1)) {
    const std::string part = path.substr(0, at);
    struct stat info{};
    if (::mkdir(part.c_str(), mode) < 0 && errno != EEXIST) return errno_error("mkdir", part);
    if (at == std::string::npos) {
      if (::stat(part.c_str(), &info) < 0) return errno_error("stat", part);
      if (!S_ISDIR(info.st_mode))
        return Error{ENOTDIR, "mkdir", part, "exists and is not a folder"};
      return {};
    }
  }
}

}  // namespace ublk_operator
