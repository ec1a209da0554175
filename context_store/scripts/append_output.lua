-- Adds pieces to the output of the open turn, those that are not there yet.
-- KEYS: meta, turns, output.  ARGV: version to come, turn, attempt, incarnation, number of the first piece, pieces.
-- Returns {'APPENDED', pieces there now}, {'GAP', pieces there} where some before the first one are missing, {'COLD'},
-- {'MISSING'}, or {'REFUSED', Turn proto or '', attempt} as commit_turn does.
local meta, turns, output = KEYS[1], KEYS[2], KEYS[3]
local m = redis.call('HMGET', meta, 'version', 'cold', 'open_turn', 'open_attempt', 'incarnation')
if not m[1] or m[5] ~= ARGV[4] then return {'MISSING'} end
if m[2] then return {'COLD'} end
if m[3] ~= ARGV[2] then return {'REFUSED', redis.call('HGET', turns, ARGV[2]) or '', 0} end
if m[4] ~= ARGV[3] then return {'REFUSED', redis.call('HGET', turns, ARGV[2]) or '', tonumber(m[4])} end
local count, first = redis.call('XLEN', output), tonumber(ARGV[5])
if first > count + 1 then return {'GAP', count} end
for i = 6, #ARGV do
  if first + i - 6 > count then
    count = count + 1
    redis.call('XADD', output, string.format('%.0f-0', count), 'p', ARGV[i])
  end
end
-- What was there already is acknowledged, too: a write moves the connection on to where WAIT has to wait for.
redis.call('HSET', meta, 'seen', ARGV[1])
return {'APPENDED', count}
