// Shell completion.
#pragma once

namespace ublk_operator {

// The text of cli/completion.bash, for `source <(ublkctl completion bash)`.
[[nodiscard]] const char* bash_completion();

}  // namespace ublk_operator
