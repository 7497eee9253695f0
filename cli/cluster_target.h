// ClusterTarget: which cluster's volumes are meant, as kubectl's options say it.
#pragma once
#include <string>

namespace ublk_operator {

struct ClusterTarget {
  std::string kubeconfig;  // empty: $KUBECONFIG, ~/.kube/config, or the pod's service account
  std::string context;     // empty: the kubeconfig's current one
  std::string namespace_name = "ublk-system";  // where the operator is
};

}  // namespace ublk_operator
