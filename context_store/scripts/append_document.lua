-- Appends the next fragments of a document where it ends, or closes it. What it must not race with is another writer
-- of the document, so the bytes committed are its fence. A batch that finds its own mark has lost an answer.
-- KEYS: meta, log, documents.
-- ARGV: version to come, document id, bytes committed before, mark of this batch, bytes committed after, Document
--   proto, then for each fragment: header, body, size.
-- Returns {'APPENDED', version, version before, first sequence of the document, last sequence}, the same with 'AGAIN'
-- for a batch that was carried out before, {'OFFSET', bytes committed}, {'DELETING'}, {'COLD'} or {'MISSING'}. Sequences
-- are 0 while empty.
local meta, log, documents = KEYS[1], KEYS[2], KEYS[3]
local m = redis.call('HMGET', meta, 'version', 'cold', 'revision')
if not m[1] then return {'MISSING'} end
if m[2] then return {'COLD'} end
local place = ARGV[2] .. ':place'
if redis.call('HGET', documents, ARGV[2] .. ':gone') == 'deleting' then return {'DELETING'} end
local committed, mark, first, last = string.match(redis.call('HGET', documents, place) or '0::0:0',
  '^(%d+):(%w*):(%d+):(%d+)$')
-- What is answered is acknowledged: a write moves the connection on to where WAIT has to wait for.
if mark == ARGV[4] then
  redis.call('HSET', meta, 'seen', ARGV[1])
  return {'AGAIN', m[1], m[1], tonumber(first), tonumber(last)}
end
if committed ~= ARGV[3] then return {'OFFSET', tonumber(committed)} end
local sequence = tonumber(m[3])
for i = 7, #ARGV, 3 do
  sequence = sequence + 1
  if first == '0' then first = string.format('%.0f', sequence) end
  last = string.format('%.0f', sequence)
  redis.call('XADD', log, last .. '-0', 'f', ARGV[i], 'b', ARGV[i + 1], 'n', ARGV[i + 2])
end
redis.call('HSET', documents, ARGV[2], ARGV[6],
  place, ARGV[5] .. ':' .. ARGV[4] .. ':' .. first .. ':' .. last)
local now = redis.call('TIME')
local version = ARGV[1] .. string.format('%06d', redis.call('TIME')[2]) .. string.sub(m[1], 1, 210)
redis.call('HSET', meta, 'revision', string.format('%.0f', sequence), 'version', version,
  'touched_ms', string.format('%.0f', now[1] * 1000 + math.floor(now[2] / 1000)))
return {'APPENDED', version, m[1], tonumber(first), tonumber(last)}
