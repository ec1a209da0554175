-- Stamps one member's heartbeat with this server's clock and sweeps those whose own has run out.
-- KEYS[1] the room's members; ARGV[1] member id, ARGV[2] its JSON object, ARGV[3] time to live in ms.
local clock = redis.call('TIME')
local now_ms = clock[1] * 1000 + math.floor(clock[2] / 1000)
local ttl_ms = tonumber(ARGV[3])

local entries = redis.call('HGETALL', KEYS[1])
for index = 1, #entries, 2 do
  -- By pattern, so that what is not ours is swept instead of ending every heartbeat.
  local heartbeat_ms = tonumber(string.match(entries[index + 1], '^{"heartbeat_ms":(%d+),')) or 0
  if heartbeat_ms < now_ms - ttl_ms then
    redis.call('HDEL', KEYS[1], entries[index])
  end
end

-- The stamp is put in as text: a round trip through cjson would turn an empty object into an array.
local stamped = string.format('{"heartbeat_ms":%.0f,', now_ms) .. string.sub(ARGV[2], 2)
redis.call('HSET', KEYS[1], ARGV[1], stamped)
redis.call('PEXPIRE', KEYS[1], ttl_ms)
