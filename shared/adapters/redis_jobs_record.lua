-- The job record, its moves, and what a move does to parents and children. `redis_jobs.lua` follows in the same
-- script: what may be asked for.
--
-- KEYS[1] is the prefix of all keys; times are in milliseconds, by the clock of the Redis server.
--   <prefix>job:<id>            hash: the record
--   <prefix>job:<id>:events     stream: what happened, newest 10,000 or so; of an ended job newest 500
--   <prefix>job:<id>:unfinished set: children that have not ended; their parent waits while it has any
--   <prefix>due                 zset: when a job that is not final is to be looked at again
--   <prefix>index:<state>:<kind>  zsets for lists, '*' is any; the score is the order of creation
--   <prefix>owner:<owner>:index:<state>:<kind>  the same of one owner's jobs, so that a page of theirs costs a page
--   <prefix>idempotency:<hash>  string: digest of the request, and the job it made

local prefix = KEYS[1]
local MOST_EVENTS = 10000
local MOST_ONCE_ENDED = 500
local FINAL = { succeeded = true, failed = true, cancelled = true }
local UNFINISHED = { 'queued', 'running', 'waiting', 'paused' }

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
    'owner', 'pause', 'taker')
  if not found[1] then return nil end
  return {
    id = id, state = found[1], kind = found[2], sequence = found[3], epoch = tonumber(found[4]),
    attempts = tonumber(found[5]), lease_until = tonumber(found[6]), cancel = found[7] == '1',
    reason = found[8] or '', resends = tonumber(found[9]), parent = found[10],
    children = found[11] and cjson.decode(found[11]) or {}, waiting_since = tonumber(found[12] or 0),
    ended_before = tonumber(found[13] or 0), owner = found[14], pause = found[15] == '1',
    taker = found[16],
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

local function unfinished_jobs(owner)
  local count = 0
  for _, state in ipairs(UNFINISHED) do count = count + redis.call('ZCARD', index_key(owner, state, '*')) end
  return count
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

local function create(id, kind, spec, parent, owner, wait, key_id)
  local sequence = whole(redis.call('INCR', prefix .. 'sequence'))
  local job = { id = id, state = 'queued', kind = kind, sequence = sequence, epoch = 0, attempts = 0,
    owner = owner }
  set(job, 'kind', kind, 'sequence', sequence, 'spec', spec, 'created', whole(now), 'epoch', '0',
    'attempts', '0', 'until', '0', 'cancel', '0', 'resends', '0')
  if parent then set(job, 'parent', parent) end
  if owner then set(job, 'owner', owner) end
  if key_id then set(job, 'key', key_id) end
  index_add(job, '*')
  due_at(id, now + tonumber(wait))
  move(job, 'queued')
end

local function unfinished_count(job) return redis.call('SCARD', unfinished_key(job.id)) end

local function each_unfinished(job, what)
  for _, id in ipairs(job.children) do
    if redis.call('SISMEMBER', unfinished_key(job.id), id) == 1 then what(load(id), true) end
  end
end

-- Tells how many children of a waiting job have ended; the estimate is by their pace since it began to wait.
local function count_children(job)
  local total = #job.children
  local done = total - unfinished_count(job)
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

-- `among_others`: its parent ends many at once, and looks at itself afterwards.
local function tell_parent(job, among_others)
  if not job.parent then return end
  redis.call('SREM', unfinished_key(job.parent), job.id)
  if among_others then return end
  local parent = load(job.parent)
  if parent.state ~= 'waiting' and parent.state ~= 'paused' then return end
  -- Those that run are asked to stop, and end later.
  if job.state ~= 'succeeded' then each_unfinished(parent, cancel) end
  count_children(parent)
  if parent.state == 'waiting' and unfinished_count(parent) == 0 then wake(parent) end
end

-- `field` is 'result', 'failure' or '', `value` its JSON. After a cancel every end is 'cancelled'.
local function finish(job, state, field, value, among_others)
  if job.cancel then state, field = 'cancelled', '' end
  local more = ''
  if field ~= '' then
    set(job, field, value)
    more = ',"' .. field .. '":' .. value
  end
  set(job, 'finished', whole(now), 'until', '0', 'pause', '0')
  redis.call('ZREM', prefix .. 'due', job.id)
  move(job, state, more)
  redis.call('XTRIM', record_key(job.id) .. ':events', 'MAXLEN', MOST_ONCE_ENDED)
  tell_parent(job, among_others)
end

local function is_held(job) return job.state == 'running' and job.lease_until > now end

-- Instead of any pause that was asked for.
function cancel(job, among_others)
  if job.cancel or FINAL[job.state] then return end
  job.cancel, job.pause = true, false
  set(job, 'cancel', '1', 'pause', '0')
  if is_held(job) then
    move(job, 'running', ',"cancel_requested":true')
    return
  end
  finish(job, 'cancelled', '', '', among_others)
  each_unfinished(job, cancel)
end

local function note_silence(job)
  job.reason = 'its worker was not heard of before the lease ran out'
  set(job, 'reason', job.reason)
end

local pause

-- Out of the way of workers and of the reconciler until it is resumed, and its children with it.
local function put_aside(job)
  job.pause = false
  set(job, 'pause', '0', 'until', '0')
  redis.call('ZREM', prefix .. 'due', job.id)
  move(job, 'paused')
  each_unfinished(job, pause)
end

function pause(job)
  if FINAL[job.state] or job.state == 'paused' or job.cancel or job.pause and is_held(job) then return end
  if is_held(job) then
    job.pause = true
    set(job, 'pause', '1')
    move(job, 'running', ',"pause_requested":true')
    return
  end
  if job.state == 'running' then note_silence(job) end
  put_aside(job)
end

-- Tells whether there was a pause to end. A holder that was only asked so far may have begun to leave; then it
-- hands the job back to the queue.
local function resume(job)
  if job.state == 'running' and job.pause then
    job.pause = false
    set(job, 'pause', '0')
    move(job, 'running', ',"pause_requested":false')
    return true
  end
  if job.state ~= 'paused' then return false end
  if unfinished_count(job) == 0 then
    wake(job)
    return true
  end
  job.waiting_since, job.ended_before = now, #job.children - unfinished_count(job)
  set(job, 'waiting_since', whole(now), 'ended_before', job.ended_before)
  move(job, 'waiting')
  each_unfinished(job, resume)
  count_children(job)
  return true
end

-- A job whose worker was silent beyond its lease, and which was to end or to pause: that needs no worker.
local function settle(job)
  note_silence(job)
  if job.cancel then
    finish(job, 'cancelled', '')
  elseif job.pause then
    put_aside(job)
  end
  return job.state ~= 'running'
end
