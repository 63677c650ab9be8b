-- The job record and its lease, one atomic step a call, by the clock of the Redis server.
--
-- KEYS[1] is the prefix of all keys, ARGV[1] the operation, the rest its arguments (times in milliseconds).
--   <prefix>job:<id>            hash: the record
--   <prefix>job:<id>:events     stream: what happened, newest 10,000 or so
--   <prefix>job:<id>:unfinished set: children that have not ended; their parent waits while it has any
--   <prefix>due                 zset: when a job that is not final is to be looked at again
--   <prefix>index:<state>:<kind>  zsets for lists, '*' is any; the score is the order of creation
--   <prefix>owner:<owner>:index:<state>:<kind>  the same of one owner's jobs, so that a page of theirs costs a page
--   <prefix>idempotency:<hash>  string: digest of the request, and the job it made
-- An answer begins with 'ok', 'missing', 'lost', 'conflict', 'final', 'nothing', 'granted' or 'spent'.

local prefix = KEYS[1]
local MOST_EVENTS = 10000
local FINAL = { succeeded = true, failed = true, cancelled = true }

local clock = redis.call('TIME')
local now = tonumber(clock[1]) * 1000 + math.floor(tonumber(clock[2]) / 1000)

local function whole(number) return string.format('%.0f', number) end
local function record_key(id) return prefix .. 'job:' .. id end
local function index_key(owner, state, kind)
  return prefix .. (owner and 'owner:' .. owner .. ':' or '') .. 'index:' .. state .. ':' .. kind
end
local function unfinished_key(id) return record_key(id) .. ':unfinished' end
local function due_at(id, at) redis.call('ZADD', prefix .. 'due', whole(at), id) end

local function load(id)
  local found = redis.call('HMGET', record_key(id), 'state', 'kind', 'sequence', 'epoch', 'attempts',
    'until', 'cancel', 'reason', 'resends', 'parent', 'children', 'waiting_since', 'ended_before',
    'owner')
  if not found[1] then return nil end
  return {
    id = id, state = found[1], kind = found[2], sequence = found[3], epoch = tonumber(found[4]),
    attempts = tonumber(found[5]), lease_until = tonumber(found[6]), cancel = found[7] == '1',
    reason = found[8] or '', resends = tonumber(found[9]), parent = found[10],
    children = found[11] and cjson.decode(found[11]) or {}, waiting_since = tonumber(found[12] or 0),
    ended_before = tonumber(found[13] or 0), owner = found[14],
  }
end

local function set(job, ...) redis.call('HSET', record_key(job.id), ...) end

local function event(job, kind, data)
  redis.call('XADD', record_key(job.id) .. ':events', 'MAXLEN', '~', MOST_EVENTS, '*', 'kind', kind, 'data', data)
end

local function index_add(job, state)
  for _, owner in ipairs(job.owner and { false, job.owner } or { false }) do
    redis.call('ZADD', index_key(owner, state, '*'), job.sequence, job.id)
    redis.call('ZADD', index_key(owner, state, job.kind), job.sequence, job.id)
  end
end

local function index_remove(job, state)
  for _, owner in ipairs(job.owner and { false, job.owner } or { false }) do
    redis.call('ZREM', index_key(owner, state, '*'), job.id)
    redis.call('ZREM', index_key(owner, state, job.kind), job.id)
  end
end

-- `more` is JSON of further fields of the event, each with a comma before it.
local function move(job, state, more)
  index_remove(job, job.state)
  index_add(job, state)
  job.state = state
  set(job, 'state', state)
  event(job, 'state', string.format('{"state":"%s","epoch":%d,"attempts":%d%s}',
    state, job.epoch, job.attempts, more or ''))
end

local function create(id, kind, spec, parent, owner, wait)
  local sequence = whole(redis.call('INCR', prefix .. 'sequence'))
  local job = { id = id, state = 'queued', kind = kind, sequence = sequence, epoch = 0, attempts = 0,
    owner = owner }
  set(job, 'kind', kind, 'sequence', sequence, 'spec', spec, 'created', whole(now), 'epoch', '0',
    'attempts', '0', 'until', '0', 'cancel', '0', 'resends', '0')
  if parent then set(job, 'parent', parent) end
  if owner then set(job, 'owner', owner) end
  index_add(job, '*')
  due_at(id, now + tonumber(wait))
  move(job, 'queued')
end

-- Tells how many children of a waiting job have ended; the estimate is by their pace since it began to wait.
local function count_children(job)
  local total = #job.children
  local done = total - redis.call('SCARD', unfinished_key(job.id))
  local fresh = done - job.ended_before
  local eta = 'null'
  if fresh > 0 then
    eta = string.format('%.3f', (now - job.waiting_since) / 1000 / fresh * (total - done))
  end
  local progress = string.format(
    '{"stage":"train","done":%d,"total":%d,"unit":"jobs","eta_s":%s,"metrics":{}}', done, total, eta)
  set(job, 'progress', progress)
  event(job, 'progress', progress)
end

-- Back into the queue, and due at once: whoever ended the last child may not live to send the message.
local function wake(job)
  set(job, 'resends', '0')
  due_at(job.id, now)
  move(job, 'queued')
end

local cancel

-- Those that run are asked to stop, and end later.
local function cancel_children(job)
  for _, id in ipairs(job.children) do
    if redis.call('SISMEMBER', unfinished_key(job.id), id) == 1 then cancel(load(id), true) end
  end
end

-- `among_others`: its parent ends many at once, and looks at itself afterwards.
local function tell_parent(job, among_others)
  if not job.parent then return end
  redis.call('SREM', unfinished_key(job.parent), job.id)
  if among_others then return end
  local parent = load(job.parent)
  if parent.state ~= 'waiting' then return end
  if job.state ~= 'succeeded' then cancel_children(parent) end
  count_children(parent)
  if redis.call('SCARD', unfinished_key(parent.id)) == 0 then wake(parent) end
end

-- `field` is 'result', 'failure' or '', `value` its JSON. After a cancel every end is 'cancelled'.
local function finish(job, state, field, value, among_others)
  if job.cancel then state, field = 'cancelled', '' end
  local more = ''
  if field ~= '' then
    set(job, field, value)
    more = ',"' .. field .. '":' .. value
  end
  set(job, 'finished', whole(now), 'until', '0')
  redis.call('ZREM', prefix .. 'due', job.id)
  move(job, state, more)
  tell_parent(job, among_others)
end

function cancel(job, among_others)
  if job.cancel or FINAL[job.state] then return end
  job.cancel = true
  set(job, 'cancel', '1')
  if job.state == 'running' and job.lease_until > now then
    move(job, 'running', ',"cancel_requested":true')
    return
  end
  finish(job, 'cancelled', '', '', among_others)
  cancel_children(job)
end

local function held(job, epoch)
  return job.state == 'running' and job.epoch == tonumber(epoch)
end

local operations = {}

function operations.submit(id, kind, spec, idempotency, digest, keep, wait, owner)
  if idempotency ~= '' then
    local key = prefix .. 'idempotency:' .. idempotency
    local before = redis.call('GET', key)
    if before then
      local digest_before, id_before = string.match(before, '^(%S+) (%S+)$')
      if digest_before ~= digest then return { 'conflict' } end
      -- Our own id: the first try arrived and only its answer was lost.
      return { 'ok', id_before == id and 1 or 0, id_before, redis.call('HGETALL', record_key(id_before)) }
    end
    redis.call('SET', key, digest .. ' ' .. id, 'PX', keep)
  end
  if redis.call('EXISTS', record_key(id)) == 0 then create(id, kind, spec, nil, owner ~= '' and owner, wait) end
  return { 'ok', 1, id, redis.call('HGETALL', record_key(id)) }
end

function operations.get(id)
  local record = redis.call('HGETALL', record_key(id))
  if #record == 0 then return { 'missing' } end
  return { 'ok', record }
end

function operations.events(id, after, limit)
  if redis.call('EXISTS', record_key(id)) == 0 then return { 'missing' } end
  return { 'ok', redis.call('XRANGE', record_key(id) .. ':events', after, '+', 'COUNT', limit) }
end

local function children_below(parent, state, kind, below, limit, owner)
  local job, ids = load(parent), {}
  for place = job and #job.children or 0, 1, -1 do
    if #ids == tonumber(limit) then break end
    local child = load(job.children[place])
    if (below == '+inf' or tonumber(child.sequence) < tonumber(string.sub(below, 2)))
      and (state == '*' or state == child.state) and (kind == '*' or kind == child.kind)
      and (owner == '' or owner == child.owner) then
      ids[#ids + 1] = child.id
    end
  end
  return ids
end

function operations.list(state, kind, below, limit, parent, owner)
  local ids
  if parent ~= '' then
    ids = children_below(parent, state, kind, below, limit, owner)
  else
    ids = redis.call('ZREVRANGEBYSCORE', index_key(owner ~= '' and owner, state, kind), below, '-inf',
      'LIMIT', 0, limit)
  end
  local page = { 'ok' }
  for _, id in ipairs(ids) do
    page[#page + 1] = id
    page[#page + 1] = redis.call('HGETALL', record_key(id))
  end
  return page
end

-- `failure` is the JSON to fail the job with where its attempts are spent; '' asks for the facts first.
function operations.acquire(id, lease, most, failure)
  local job = load(id)
  if not job then return { 'missing' } end
  if FINAL[job.state] or job.state == 'waiting' then return { 'nothing' } end
  if job.state == 'running' then
    if job.lease_until > now then return { 'nothing' } end
    job.reason = 'its worker was not heard of before the lease ran out'
  end
  if job.cancel then
    finish(job, 'cancelled', '')
    return { 'nothing' }
  end
  if job.attempts >= tonumber(most) then
    if failure == '' then return { 'spent', job.attempts, job.reason } end
    finish(job, 'failed', 'failure', failure)
    return { 'nothing' }
  end
  job.epoch = job.epoch + 1
  job.attempts = job.attempts + 1
  local lease_until = now + tonumber(lease)
  set(job, 'epoch', job.epoch, 'attempts', job.attempts, 'until', whole(lease_until), 'resends', '0')
  redis.call('HSETNX', record_key(id), 'started', whole(now))
  due_at(id, lease_until)
  move(job, 'running')
  local ends = {}
  for _, child in ipairs(job.children) do
    ends[#ends + 1] = child
    ends[#ends + 1] = redis.call('HGETALL', record_key(child))
  end
  return { 'granted', job.epoch, job.attempts, redis.call('HGET', record_key(id), 'spec'), job.parent or '', ends,
    job.owner or '' }
end

function operations.renew(id, epoch, lease)
  local job = load(id)
  if not job then return { 'missing' } end
  if not held(job, epoch) then return { 'lost' } end
  local lease_until = now + tonumber(lease)
  set(job, 'until', whole(lease_until))
  due_at(id, lease_until)
  return { 'ok', job.cancel and 1 or 0 }
end

function operations.look(id, epoch)
  local job = load(id)
  if not job then return { 'missing' } end
  if not held(job, epoch) then return { 'lost' } end
  return { 'ok', job.cancel and 1 or 0 }
end

function operations.progress(id, epoch, progress)
  local job = load(id)
  if not job then return { 'missing' } end
  if not held(job, epoch) then return { 'lost' } end
  set(job, 'progress', progress)
  event(job, 'progress', progress)
  return { 'ok' }
end

function operations.note(id, epoch, note)
  local job = load(id)
  if not job then return { 'missing' } end
  if not held(job, epoch) then return { 'lost' } end
  event(job, 'note', note)
  return { 'ok' }
end

function operations.finish(id, epoch, state, field, value)
  local job = load(id)
  if not job then return { 'missing' } end
  -- Ended by the same holder: the first try arrived and only its answer was lost.
  if FINAL[job.state] and job.epoch == tonumber(epoch) then return { 'ok', job.state } end
  if not held(job, epoch) then return { 'lost' } end
  finish(job, state, field, value)
  return { 'ok', job.state }
end

function operations.release(id, epoch, died, reason, wait)
  local job = load(id)
  if not job then return { 'missing' } end
  if job.state == 'queued' and job.epoch == tonumber(epoch) then return { 'ok', job.state } end
  if not held(job, epoch) then return { 'lost' } end
  if job.cancel then
    finish(job, 'cancelled', '')
    return { 'ok', job.state }
  end
  if died == '1' then
    set(job, 'reason', reason)
  else
    job.attempts = job.attempts - 1
  end
  set(job, 'attempts', job.attempts, 'until', '0', 'resends', '0')
  due_at(id, now + tonumber(wait))
  move(job, 'queued')
  return { 'ok', job.state }
end

-- `children` is JSON of [id, kind, spec as JSON] each.
function operations.wait(id, epoch, children, wait)
  local job = load(id)
  if not job then return { 'missing' } end
  -- By the same holder, and it does not run: the first try arrived and only its answer was lost.
  if job.state ~= 'running' and job.epoch == tonumber(epoch) then return { 'ok', job.state } end
  if not held(job, epoch) then return { 'lost' } end
  if job.cancel then
    finish(job, 'cancelled', '')
    return { 'ok', job.state }
  end
  for _, child in ipairs(cjson.decode(children)) do
    local child_id, kind, spec = unpack(child)
    if redis.call('EXISTS', record_key(child_id)) == 0 then
      create(child_id, kind, spec, id, job.owner, wait)
      redis.call('SADD', unfinished_key(id), child_id)
      job.children[#job.children + 1] = child_id
    end
  end
  job.attempts = job.attempts - 1
  set(job, 'attempts', job.attempts, 'until', '0')
  local unfinished = redis.call('SCARD', unfinished_key(id))
  if unfinished == 0 then
    wake(job)
    return { 'ok', job.state }
  end
  local made = cjson.encode(job.children)
  job.waiting_since, job.ended_before = now, #job.children - unfinished
  set(job, 'children', made, 'waiting_since', whole(now), 'ended_before', job.ended_before)
  redis.call('ZREM', prefix .. 'due', id)
  move(job, 'waiting', ',"children":' .. made)
  count_children(job)
  return { 'ok', job.state }
end

function operations.cancel(id)
  local job = load(id)
  if not job then return { 'missing' } end
  if job.state == 'succeeded' or job.state == 'failed' then return { 'final', job.state } end
  cancel(job)
  return { 'ok', redis.call('HGETALL', record_key(id)) }
end

function operations.claim(limit, wait, longest)
  local claimed = { 'ok' }
  for _, id in ipairs(redis.call('ZRANGEBYSCORE', prefix .. 'due', '-inf', whole(now), 'LIMIT', 0, limit)) do
    local job = load(id)
    if not job or FINAL[job.state] then
      redis.call('ZREM', prefix .. 'due', id)
    else
      due_at(id, now + math.min(tonumber(wait) * 2 ^ job.resends, tonumber(longest)))
      set(job, 'resends', job.resends + 1)
      claimed[#claimed + 1] = id
    end
  end
  return claimed
end

return operations[ARGV[1]](unpack(ARGV, 2))
