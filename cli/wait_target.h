// WaitTarget: what `ublkctl wait --for=...` waits for.
//   Ready, condition=Ready, condition=Ready=False    a condition, in any case; its status is "True"
//                                                    unless said
//   delete                                           the volume is gone
//   state=LIVE, status.devicePath=/dev/ublkb0,       a field of the volume as `get -o json` shows
//   jsonpath={.spec.size}=1Gi                        it; a path that begins with neither spec,
//                                                    status nor metadata is below status
// A condition that was made from an older spec than the present one (observedGeneration) does not
// count.
#pragma once
#include <optional>
#include <string>
#include <vector>

#include "common/api/volume.h"
#include "common/base/result.h"

namespace ublk_operator {

class WaitTarget {
 public:
  // EINVAL: not understood, or no such condition (says which there are).
  [[nodiscard]] static Result<WaitTarget> parse(const std::string& text);

  // nullopt: there is no such volume.
  [[nodiscard]] bool met_by(const std::optional<Volume>& volume) const;
  // How it is instead: "Ready is False (CrashLoop: the server died 10 times)".
  [[nodiscard]] std::string explain(const std::optional<Volume>& volume) const;
  [[nodiscard]] bool is_delete() const { return kind_ == Kind::gone; }

 private:
  enum class Kind { gone, condition, field };
  Kind kind_ = Kind::gone;
  std::string condition_;          // Kind::condition
  std::vector<std::string> path_;  // Kind::field
  std::string value_;              // "True", or the field's text
};

}  // namespace ublk_operator
