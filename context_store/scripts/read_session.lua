-- Reads what a copy of the session needs, as of one moment: meta, the log's headers from a place on, the open turn.
-- Changes nothing.
-- KEYS: meta, log, turns.  ARGV: first sequence, entries at most.
-- Returns {flat list of meta's fields, flat list of sequence, header, size for each entry, Turn proto or ''},
-- or {'COLD'}. Without a session there is no version among its fields.
local meta, log, turns = KEYS[1], KEYS[2], KEYS[3]
if redis.call('HEXISTS', meta, 'cold') == 1 then return {'COLD'} end
local rows = {}
for _, entry in ipairs(redis.call('XRANGE', log, ARGV[1] .. '-0', '+', 'COUNT', ARGV[2])) do
  -- Every entry is written as f, b, n, in this order.
  rows[#rows + 1] = string.match(entry[1], '^%d+')
  rows[#rows + 1] = entry[2][2]
  rows[#rows + 1] = entry[2][6]
end
local open = redis.call('HGET', meta, 'open_turn')
return {redis.call('HGETALL', meta), rows, open and redis.call('HGET', turns, open) or ''}
