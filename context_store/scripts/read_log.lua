-- Reads a page of the log, with or without bodies. Changes nothing.
-- KEYS: meta, log.
-- ARGV: first sequence, last sequence, entries at most, '1' with bodies or '0' without, incarnation that the session
--   must have or ''.
-- Returns a flat list of sequence, header, size, body (or '') for each entry, {'COLD'}, or, where no incarnation is
-- asked for and the page begins in a past that the session shares, {'SHARED', links, last sequence of that past}.
local m = redis.call('HMGET', KEYS[1], 'cold', 'shared', 'links', 'incarnation', 'version')
if ARGV[5] ~= '' then
  if m[4] ~= ARGV[5] or not m[5] then return {} end
elseif m[2] and tonumber(ARGV[1]) <= tonumber(m[2]) then
  return {'SHARED', m[3], tonumber(m[2])}
end
if m[1] then return {'COLD'} end
local rows = {}
local entries = redis.call('XRANGE', KEYS[2], ARGV[1] .. '-0', ARGV[2] .. '-0', 'COUNT', ARGV[3])
for _, entry in ipairs(entries) do
  -- Every entry is written as f, b, n, in this order.
  local fields = entry[2]
  rows[#rows + 1] = string.match(entry[1], '^%d+')
  rows[#rows + 1] = fields[2]
  rows[#rows + 1] = fields[6]
  rows[#rows + 1] = ARGV[4] == '1' and fields[4] or ''
end
return rows
