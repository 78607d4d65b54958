-- What one workspace, one reporter or one function of the platform does must not affect others. So marks are kept until they are taken
-- back, a suspicion is kept once, and an engine has events of its own.

-- What the platform was told by defib.mark_dead, until defib.mark_recovered has taken it back. The row is written in the transaction that
-- marks, so that a daemon that dies in between forgets nothing.
create table defib.marks (
    workspace_id  text primary key,
    engine        text not null,
    attempt_id    bigint,
    since_attempt bigint,
    marked_at     timestamptz not null default now(),
    status_before text,
    status        text,
    owed          boolean not null default false,
    tries         integer not null default 0,
    next_at       timestamptz not null default now()
) with (fillfactor = 85);
comment on table defib.marks is 'Workspaces that defib.mark_dead marked, and that defib.mark_recovered has not been called for since.';
comment on column defib.marks.workspace_id is 'Which workspace.';
comment on column defib.marks.engine is 'Whose owner takes the mark back: the engine of the attempt, or for an external workspace the engine whose lease it was marked under.';
comment on column defib.marks.attempt_id is 'The attempt that marked it last; null: it is external, and there was nothing to restart.';
comment on column defib.marks.since_attempt is 'The attempt that marked it first: every attempt from this one on was made under the mark.';
comment on column defib.marks.marked_at is 'Since when the mark stands. An attempt that renews the mark does not change it.';
comment on column defib.marks.status_before is 'The status in the evidence of the mark; null: not known.';
comment on column defib.marks.status is 'The status right after the mark: the word that the platform''s defib.mark_dead writes; null: not known.';
comment on column defib.marks.owed is 'defib.mark_recovered must be called: the workspace is back, or nothing was done after the mark.';
comment on column defib.marks.tries is 'How often defib.mark_recovered has failed for it since it is owed.';
comment on column defib.marks.next_at is 'When defib.mark_recovered is tried next. The delay grows with each failure.';

create index marks_owed on defib.marks (next_at) where owed;
comment on index defib.marks_owed is 'Those that are to be taken back.';

-- What was marked before this table was there: by attempts that no recovery has ended, and external workspaces that are lost.
insert into defib.marks (workspace_id, engine, attempt_id, since_attempt, marked_at)
select distinct on (r.workspace_id) r.workspace_id, r.engine, r.id, min(r.id) over (partition by r.workspace_id), r.claimed_at
  from defib.restarts r
 where r.run_ended_at is null and (r.outcome is null or r.outcome <> 'vetoed')
 order by r.workspace_id, r.id desc;
insert into defib.marks (workspace_id, engine, marked_at)
select v.workspace_id, v.engine, v.since from defib.verdicts v where v.verdict = 'lost'
    on conflict do nothing;

-- An attempt that ended without asking the engine counts for nothing and gives its number back, like one that was vetoed.
update defib.restarts set run_ended_at = finished_at
 where outcome = 'abandoned' and acting_at is null and run_ended_at is null;
comment on column defib.restarts.run_ended_at is
    'When a recovery or an operator ended the run that it belongs to: its number may come again. Set at once for an attempt that never asked the engine.';

-- An engine that goes away or comes back is one event of the engine, and not one of each of its workspaces.
alter table defib.events add column engine text;
alter table defib.events alter column workspace_id drop not null;
alter table defib.events add constraint events_about_check check ((workspace_id is null) <> (engine is null));
comment on table defib.events is 'Changes of verdicts, and of what an engine says, for defib explain.';
comment on column defib.events.workspace_id is 'About which workspace; null: about an engine.';
comment on column defib.events.engine is 'About which engine; null: about a workspace.';
create index events_of_engine on defib.events (engine, id) where engine is not null;
comment on index defib.events_of_engine is 'For defib explain: what happened to the engine of a workspace.';

-- Suspicions: a report that says the same as one that waits to be taken is not kept a second time.
alter table defib.suspicions add column login text not null default '';
comment on column defib.suspicions.login is 'The database login that reported it: written by the function, so nobody can choose it. Empty: reported before version 6.';

update defib.suspicions s set taken_at = now(), taken_by = 'defib migrate: another one says the same'
 where s.taken_at is null
   and exists (select from defib.suspicions earlier
                where earlier.taken_at is null and earlier.id < s.id
                  and (earlier.workspace_id, earlier.reporter, earlier.reason) = (s.workspace_id, s.reporter, s.reason));
create unique index suspicions_pending_once on defib.suspicions (workspace_id, login, reporter, reason) where taken_at is null;
comment on index defib.suspicions_pending_once is 'One pending report of a workspace by a login, under a name and for a reason. Also whether a workspace has any.';
drop index defib.suspicions_pending_of;

-- The workspace's id is kept as it is, because ids with control characters are judged too. It is made harmless where it is printed.
-- All other text is spelled out here.
--
-- What keeps a flood cheap, in the order of the statements:
-- 1. One that waits already is found by the unique index, and nothing is written. If a daemon takes that row at this very moment, this report
--    is dropped: the look that the daemon takes for it comes later than this report, so it answers both.
-- 2. A login that uses many names for one workspace is one reporter to the judge, so it gets 32 pending rows and no more.
-- 3. Two callers that insert the same row at once meet on the unique index, and the second waits for the first's transaction. A platform may
--    call this in the middle of a long transaction, so the wait ends after a tenth of a second: the other one's report stands for both.
-- 4. NOTIFY takes a lock that all notifying commits of the cluster share: about 4,000 a second is all there is. So only the first pending
--    suspicion of a workspace notifies. One that arrives while the first is just being taken may go without: it waits for the next
--    pass, at most one poll interval.
create or replace function defib.report_suspicion(
    workspace_id text, reporter text, reason text, http_status integer default null, detail text default null)
returns void
language plpgsql volatile security definer
set search_path = pg_catalog, pg_temp set lock_timeout = '100ms'
as $$
declare
    about       text := workspace_id;
    caller      text := session_user;
    said_by     text := coalesce(defib.visible(reporter, 100), session_user::text);
    because     text := coalesce(defib.visible(reason, 100), 'unspecified');
    has_pending boolean;
    is_new      boolean;
begin
    if about is null then
        return;
    end if;
    if octet_length(about) > 512 then
        -- Nobody who is judged has such an id. The beginning is kept for people; the mark at its end makes it no one's.
        about := left(about, 100) || '…';
    end if;
    if exists (select from defib.suspicions s
                where s.workspace_id = about and s.login = caller and s.reporter = said_by and s.reason = because
                  and s.taken_at is null) then
        return;
    end if;
    if 32 <= (select count(*) from (
            select from defib.suspicions s
             where s.workspace_id = about and s.login = caller and s.taken_at is null limit 32) names) then
        return;
    end if;
    has_pending := exists (select from defib.suspicions s where s.workspace_id = about and s.taken_at is null);
    begin
        insert into defib.suspicions (workspace_id, login, reporter, reason, http_status, detail)
        values (about, caller, said_by, because, report_suspicion.http_status,
                defib.visible(report_suspicion.detail, 1000))
            on conflict do nothing;
        is_new := found;
    exception
        when lock_not_available then
            return;
    end;
    if is_new and not has_pending then
        perform pg_notify('defib_suspicion', about);
    end if;
end
$$;
comment on function defib.report_suspicion(text, text, text, integer, text) is
    'All that a proxy may do: say that a workspace did not answer. Never fails for what is said: unknown workspaces are kept and ignored, long text is cut (100, 100, 1000 characters; an id at 512 bytes), control characters are spelled out except in the id. Keeps one pending row for a workspace, login, reporter and reason. Notifies defib_suspicion.';

-- Whether a workspace is below a parked one. The set of all of them (defib.below_parked) is right for a read of the whole fleet: for 100,000
-- rows in trees of 100, a fifth of them below a parked root, it takes 50 ms, where a walk up from each row takes 2 s. For the few rows of a
-- focused pass it is wrong, because it walks every parked tree for them: 40 ms, where the walk up from three rows takes 0.2 ms. (Measured with
-- `explain analyze`, PostgreSQL 15.) So there are both, and whoever reads a few rows says `set local defib.walk = 'up'` in the transaction.
create function defib.has_parked_ancestor(parent_id text) returns boolean
language plpgsql stable security definer parallel restricted cost 200
set search_path = pg_catalog, pg_temp
as $$
declare
    above    text := has_parked_ancestor.parent_id;
    seen     text[] := '{}';
    ancestor record;
begin
    while above is not null and above <> all (seen) loop -- a cycle ends here
        select w.status, w.parent_id into ancestor from defib.workspaces w where w.id = above;
        exit when not found;
        if defib.is_parked(ancestor.status) then
            return true;
        end if;
        seen := seen || above;
        above := ancestor.parent_id;
    end loop;
    return false;
end
$$;
comment on function defib.has_parked_ancestor(text) is 'Whether this parent, or an ancestor of it, is parked: the walk up from a single workspace.';

-- The view of a platform is not touched: only one that is still as it was shipped is made anew.
create view defib.fleet_as_shipped as
select w.id as workspace_id,
       w.name,
       w.status,
       w.kind,
       w.engine,
       w.container_ref,
       w.instance_ref,
       defib.is_parked(w.status)
           or (w.parent_id is not null and w.id in (select id from defib.below_parked() as below(id))) as suspended,
       w.last_heartbeat_at,
       w.last_activity_at,
       w.active_tasks,
       w.created_at,
       w.policy
  from defib.workspaces w;
do $do$
begin
    if pg_catalog.pg_get_viewdef('defib.fleet'::regclass) = pg_catalog.pg_get_viewdef('defib.fleet_as_shipped'::regclass) then
        create or replace view defib.fleet as
        select w.id as workspace_id,
               w.name,
               w.status,
               w.kind,
               w.engine,
               w.container_ref,
               w.instance_ref,
               defib.is_parked(w.status)
                   or (w.parent_id is not null
                       and case when current_setting('defib.walk', true) = 'up' then defib.has_parked_ancestor(w.parent_id)
                                else w.id in (select id from defib.below_parked() as below(id)) end) as suspended,
               w.last_heartbeat_at,
               w.last_activity_at,
               w.active_tasks,
               w.created_at,
               w.policy
          from defib.workspaces w;
    end if;
end
$do$;
drop view defib.fleet_as_shipped;
