# What the agent touches outside of itself: state folder, backends, device nodes, manifests.
ublk_library(agent_edges
  SOURCES state_store.cc backend_store.cc device_node.cc manifest_folder.cc manifest_request.cc
    folder_source.cc event_log.cc pool.cc pool_file.cc grace_periods.cc
  LINK ublk_base ublk_api ublk_direct_io nlohmann_json::nlohmann_json)
ublk_test(agent_edges_test
  SOURCES state_store_test.cc backend_store_test.cc device_node_test.cc manifest_folder_test.cc
          manifest_request_test.cc event_log_test.cc pool_test.cc grace_periods_test.cc
  LINK ublk_agent_edges ublk_control)
ublk_test(agent_edges_kernel_test VM
  SOURCES device_node_kernel_test.cc
  LINK ublk_agent_edges ublk_control)
