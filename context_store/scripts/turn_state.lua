-- Reads one turn with what its open life adds to it.
-- KEYS: meta, turns, output.  ARGV: turn, incarnation or '' for any, piece of its output to read behind or '' for none,
--   pieces at most.
-- Returns {Turn proto, attempt, ms left, incarnation, pieces} with attempt 0 for a closed turn, and '' for an unknown one;
-- or {'COLD'} or {'MISSING'}.
local m = redis.call('HMGET', KEYS[1], 'version', 'cold', 'open_turn', 'open_attempt', 'lease_until_ms', 'incarnation')
if not m[1] or (ARGV[2] ~= '' and ARGV[2] ~= m[6]) then return {'MISSING'} end
if m[2] then return {'COLD'} end
local turn = redis.call('HGET', KEYS[2], ARGV[1])
if not turn then return {'', 0, 0, m[6], {}} end
if m[3] ~= ARGV[1] then
  -- That it is closed is an acknowledgement: a write moves the connection on to where WAIT has to wait for.
  redis.call('HSET', KEYS[1], 'seen', ARGV[1])
  return {turn, 0, 0, m[6], {}}
end
local pieces = {}
if ARGV[3] ~= '' then
  for _, entry in ipairs(redis.call('XRANGE', KEYS[3], '(' .. ARGV[3] .. '-0', '+', 'COUNT', ARGV[4])) do
    pieces[#pieces + 1] = entry[2][2]
  end
end
local now = redis.call('TIME')
return {turn, tonumber(m[4]), tonumber(m[5]) - (now[1] * 1000 + math.floor(now[2] / 1000)), m[6], pieces}
