-- Requests for wrk, read from the file that REQUESTS names: a token, a tab and a body on each line, taken in turns. At the
-- end one line of JSON: counts, microseconds.
local requests, at = {}, 0

function init(arguments)
  for line in io.lines(os.getenv("REQUESTS")) do
    local token, body = line:match("^(.-)\t(.*)$")
    local headers = { ["Content-Type"] = "application/json" }
    if token ~= "" then headers["Authorization"] = "Bearer " .. token end
    requests[#requests + 1] = wrk.format("POST", nil, headers, body)
  end
end

function request()
  at = at % #requests + 1
  return requests[at]
end

function done(summary, latency)
  local broken = summary.errors.connect + summary.errors.read + summary.errors.write + summary.errors.timeout
  io.write(string.format(
    '{"calls": %d, "us": %d, "refused": %d, "broken": %d, "p50": %d, "p99": %d}\n',
    summary.requests, summary.duration, summary.errors.status, broken,
    latency:percentile(50), latency:percentile(99)
  ))
end
