-- A made-up fleet for the tests of the status page: what a replica r1 says that owns every engine, so that a page drawn from it is the
-- same each time. %workspaces% on %engines% engines, of which a few are in trouble; the history of one; hostile texts.

insert into defib.replicas (replica, engines, fit, started_at, expires_at, mode, version, watched_statuses, heartbeats_usable, last_pass_at)
select 'r1', array_agg('e' || n order by n), array_agg('e' || n order by n), now() - interval '2 hours 3 minutes', now() + interval '1 day',
       'enforce', '0.1.0', '{online,degraded,offline}', true, now() - interval '2 seconds'
  from generate_series(1, %engines%) as n;

insert into defib.leases (engine, holder, epoch, expires_at)
select 'e' || n, 'r1', 3, now() + interval '1 day' from generate_series(1, %engines%) as n;

insert into defib.engines (engine, holder, answers, fault, asked_at, judged, storm, last_pass_at, good_until)
select 'e' || n, 'r1', n <> 3, case when n = 3 then 'timed_out' end, now() - interval '2 seconds', %workspaces% / %engines%,
       case when n = 2 then '{"since_seconds": 40, "batch": 3, "canaries": ["w5", "w7"], "under_way": 2, "waiting": 5}'::jsonb end,
       now() - interval '2 seconds', now() + interval '1 day'
  from generate_series(1, %engines%) as n;

insert into defib.workspaces (id, name, status, engine, last_heartbeat_at, created_at)
select 'w' || n, 'Agent ' || n, 'online', 'e' || 1 + (n - 1) * %engines% / %workspaces%, now() - (n % 25) * interval '1 second', now() - interval '9 days'
  from generate_series(1, %workspaces%) as n;

insert into defib.workspaces (id, name, status, engine, last_heartbeat_at, created_at) values
    ('stopped-by-hand', 'Somebody''s old agent', 'stopped', 'e1', now() - interval '3 days', now() - interval '9 days'),
    ('on-an-engine-of-nobody', null, 'online', 'elsewhere', now(), now() - interval '9 days'),
    (E'<script>alert("id")</script>\u202e/?#%', E'<img src=x onerror="alert(1)">\u202e\u0007' || repeat('x', 10000), 'online', 'e1', now(), now() - interval '9 days');

insert into defib.verdicts (workspace_id, verdict, since, engine, rule, because, evidence, held, updated_at)
select w, verdict, now() - since, 'e1', rule, because,
       jsonb_build_object('because', because, 'rule', rule, 'would_change', 'a sample that finds it running', 'retry_in_seconds', 40,
                          'sample', jsonb_build_object('incarnation', jsonb_build_object('container_id', 'c0ffee0123456789abcd', 'started_at', '2026-11-24T10:00:00.000000Z'))),
       held, now() - interval '2 seconds'
  from (values ('w17', 'dead', interval '42 seconds', 'stopped_stale', 'container stopped (exit 137, out of memory), heartbeat stale for 80 s', 'backoff'),
               ('w5', 'suspect', interval '1 second', 'stopped_once', 'container stopped (exit 1), seen once; heartbeat 12 s old', null),
               ('w8', 'busy', interval '3 minutes', 'running_busy', 'no heartbeat for 95 s, but 2 active tasks', null),
               ('w9', 'exhausted', interval '3 hours', 'stopped_stale', 'container stopped (exit 2), heartbeat stale for 3 h', 'exhausted'),
               ('w11', 'settling', interval '4 seconds', 'new_incarnation', 'started 4 s ago', null),
               (E'<script>alert("id")</script>\u202e/?#%', 'wedged', interval '12 minutes', 'running_wedged',
                E'<script>alert("because")</script>\u202e' || repeat('y', 10000), 'report_only')) as v(w, verdict, since, rule, because, held);

insert into defib.events (workspace_id, at, verdict_from, verdict_to, evidence)
select 'w17', now() - before, verdict_from, verdict_to, jsonb_build_object('because', because, 'rule', rule, 'heartbeat', '{"age_seconds": 81.2, "window_seconds": 75}'::jsonb)
  from (values (interval '95 minutes', 'alive', 'suspect', 'container stopped (exit 137), seen once', 'stopped_once'),
               (interval '94 minutes 58.8 seconds', 'suspect', 'dead', 'container stopped (exit 137), seen twice 1.1 s apart', 'stopped_spaced'),
               (interval '94 minutes 58.1 seconds', 'dead', 'settling', 'started 0.1 s ago', 'new_incarnation'),
               (interval '94 minutes 51 seconds', 'settling', 'alive', 'heartbeat 0.4 s old', 'running_fresh'),
               (interval '44 seconds', 'alive', 'suspect', 'container stopped (exit 137, out of memory), seen once', 'stopped_once'),
               (interval '42 seconds', 'suspect', 'dead', 'container stopped (exit 137, out of memory), heartbeat stale for 80 s', 'stopped_stale')
       ) as e(before, verdict_from, verdict_to, because, rule);

insert into defib.restarts (workspace_id, engine, container_id, started_at, attempt, epoch, verdict, evidence, claimed_by, claimed_at, finished_at, outcome, error, recovered_at, run_ended_at)
values ('w17', 'e1', 'c0ffee0123456789abcd', now() - interval '2 days', 1, 3, 'dead', '{"because": "container stopped (exit 137), seen twice 1.1 s apart"}', 'r1',
        now() - interval '94 minutes 58.7 seconds', now() - interval '94 minutes 58.2 seconds', 'succeeded', null, now() - interval '94 minutes 51 seconds', now() - interval '94 minutes 51 seconds'),
       ('w17', 'e1', 'c0ffee0123456789abcd', now() - interval '94 minutes', 1, 3, 'dead', '{"because": "container stopped (exit 137, out of memory), heartbeat stale for 80 s"}', 'r1',
        now() - interval '41.9 seconds', now() - interval '38 seconds', 'failed', E'<b>no space left on device</b>\u202e', null, null),
       ('w9', 'e1', 'beef', now() - interval '3 hours', 5, 3, 'dead', '{"because": "container stopped (exit 2), heartbeat stale for 3 h"}', 'r1',
        now() - interval '21 minutes', now() - interval '20 minutes 58 seconds', 'succeeded', null, null, null),
       ('w5', 'e1', 'cafe', now() - interval '1 day', 1, 3, 'dead', '{"because": "container stopped (exit 1), seen twice"}', 'r1',
        now() - interval '300 milliseconds', null, null, null, null, null);

insert into defib.last_words (attempt_id, exit_code, oom_killed, finished_at, log)
select id, 137, true, now() - interval '45 seconds', E'starting\n<script>alert("log")</script>\u202e\u001b[31m\n' || repeat('z', 10000) || E'\nout of memory'
  from defib.restarts where workspace_id = 'w17' and outcome = 'failed';

insert into defib.suspicions (workspace_id, reporter, reason, http_status, detail, reported_at, taken_at, taken_by, finding)
values ('w17', 'proxy-1', 'refused', 502, E'connect: refused <i>\u202e', now() - interval '44.2 seconds', now() - interval '44.19 seconds', 'r1', 'stopped, exit 137');

insert into defib.holds (scope, target, owner, reason, created_at, expires_at)
values ('engine', 'e2', 'ann', 'kernel upgrade', now() - interval '20 minutes', now() + interval '100 minutes'),
       ('workspace', 'w17', E'bob <bob@example.org>\u202e', 'memory limit is being raised', now() - interval '30 seconds', null);
