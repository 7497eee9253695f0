// The local API's wire form, shared by its server and its client.
// Shape    AF_UNIX SOCK_STREAM; one JSON object a line (UTF-8, ends with '\n'), at most
//          limits::local_api_bytes_max long and limits::local_api_depth_max deep.
//            request   {"id":1,"method":"get","params":{"name":"pgdata"}}
//            answer    {"id":1,"result":...}
//                      {"id":1,"error":{"errno":2,"name":"ENOENT","operation":"get",
//                                       "object":"volume x","detail":"..."}}
//            watch     {"id":1,"result":{}}, then for ever
//                      {"id":1,"event":{"name":"pgdata","volume":{...}|null}}, or one last
//                      {"id":1,"error":...} (ENOBUFS: did not read fast enough; watch again)
//          Answers come in the order of the requests. An unknown method or parameter is an error
//          (EOPNOTSUPP, EINVAL), so that an old agent never does half of what a newer ublkctl
//          meant. Volumes and events are as to_json() writes them. "id" is any number or string;
//          null in an answer to what was no request at all.
//            method           params                  result
//            list                                     [volume]
//            get              name                    volume
//            events           volume ("": all)        [event]
//            apply            manifest                [name]
//            remove           name                    {}
//            stop             name, stopped, force    {}
//            recover          name, replaceServer     {}
//            pause            name, paused            {}
//            support_bundle                           object
//            watch                                    {}
// Errors   what is wrong with a message: EPROTO with where and why.
// Threads  pure functions.
#pragma once
#include <string>
#include <string_view>

#include "common/base/result.h"
#include "nlohmann/json.hpp"

namespace ublk_operator {

inline constexpr const char* kLocalApiSocket = "/run/ublk-operator/agent.sock";

// One line without its '\n' as a JSON object. EPROTO: not JSON, not an object, too deep.
[[nodiscard]] Result<nlohmann::json> parse_message(std::string_view line);
// With '\n'. Text that is not UTF-8 (a backend's message) is repaired, never refused.
[[nodiscard]] std::string format_message(const nlohmann::json& message);

[[nodiscard]] nlohmann::json error_to_json(const Error& error);
[[nodiscard]] Error error_from_json(const nlohmann::json& json);

}  // namespace ublk_operator
