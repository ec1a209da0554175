-- Reads a page of the log, with or without bodies. Changes nothing.
-- KEYS: log.  ARGV: first sequence, last sequence, entries at most, '1' with bodies or '0' without.
-- Returns a flat list of sequence, header, size, body (or '') for each entry.
local rows = {}
local entries = redis.call('XRANGE', KEYS[1], ARGV[1] .. '-0', ARGV[2] .. '-0', 'COUNT', ARGV[3])
for _, entry in ipairs(entries) do
  -- Every entry is written as f, b, n, in this order.
  local fields = entry[2]
  rows[#rows + 1] = string.match(entry[1], '^%d+')
  rows[#rows + 1] = fields[2]
  rows[#rows + 1] = fields[6]
  rows[#rows + 1] = ARGV[4] == '1' and fields[4] or ''
end
return rows
