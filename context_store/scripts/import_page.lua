-- Writes a part of an import. The same part again changes nothing more.
-- KEYS: meta, log, turns, requests, void, documents.
-- ARGV: incarnation, ms after which an import without progress has died, fragments, turns, then for each fragment:
--   sequence, header, body, size; for each turn: number, Turn proto, letter of its state, request_id; for each
--   document: id, Document proto, place.
-- Returns {'PUT'}, or {'GONE'} when the import is not under way any more.
local m = redis.call('HMGET', KEYS[1], 'incarnation', 'version', 'erasing')
if m[1] ~= ARGV[1] or m[2] or m[3] then return {'GONE'} end
local newest = redis.call('XREVRANGE', KEYS[2], '+', '-', 'COUNT', 1)[1]
local last = newest and tonumber(string.match(newest[1], '^%d+')) or 0
local turn = 5 + 4 * ARGV[3]
local document = turn + 4 * ARGV[4]
for i = 5, turn - 1, 4 do
  if tonumber(ARGV[i]) > last then
    redis.call('XADD', KEYS[2], ARGV[i] .. '-0', 'f', ARGV[i + 1], 'b', ARGV[i + 2], 'n', ARGV[i + 3])
  end
end
for i = turn, document - 1, 4 do
  redis.call('HSET', KEYS[3], ARGV[i], ARGV[i + 1])
  if ARGV[i + 2] ~= 'D' then redis.call('SADD', KEYS[5], 't' .. ARGV[i]) end
  -- What the request asked for is not known: any body under its id finds the turn.
  if ARGV[i + 3] ~= '' then
    redis.call('HSET', KEYS[4], ARGV[i + 3], string.rep('\0', 16) .. ARGV[i + 2] .. ARGV[i])
  end
end
for i = document, #ARGV, 3 do
  redis.call('HSET', KEYS[6], ARGV[i], ARGV[i + 1], ARGV[i] .. ':place', ARGV[i + 2])
end
local now = redis.call('TIME')
redis.call('HSET', KEYS[1], 'importing', string.format('%.0f', now[1] * 1000 + math.floor(now[2] / 1000) + ARGV[2]))
return {'PUT'}
