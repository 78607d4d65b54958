-- The fleet: what should live. A platform with tables of its own replaces the view and the three functions below it
-- (deploy/adapters); everything else of defib knows nothing of the platform but these.

do $$
begin
    -- `create schema if not exists` asks for the right to create one even where one stands.
    if not exists (select from pg_catalog.pg_namespace where nspname = 'defib') then
        create schema defib;
    end if;
end
$$;
comment on schema defib is 'defib: restarts dead workspaces, and no others. Tables and columns are described by their comments.';

create table if not exists defib.schema_version (
    version    integer primary key,
    name       text not null,
    applied_at timestamptz not null default clock_timestamp(),
    applied_by text not null default session_user
);
comment on table defib.schema_version is 'Migrations that were applied here, by `defib migrate`.';
comment on column defib.schema_version.version is 'Number of the migration file.';
comment on column defib.schema_version.name is 'Name of the migration file.';
comment on column defib.schema_version.applied_at is 'When it was applied.';
comment on column defib.schema_version.applied_by is 'Who applied it.';

-- fillfactor 85 and no index on what a heartbeat changes: every heartbeat is a HOT update (an index would cost the writer
-- 15 to 37 %).
create table defib.workspaces (
    id                text primary key,
    name              text,
    status            text not null default 'online',
    kind              text not null default 'container'
                      constraint workspaces_kind_check check (kind in ('container', 'instance', 'external')),
    engine            text not null default 'default',
    container_ref     text,
    instance_ref      text,
    parent_id         text,
    last_heartbeat_at timestamptz,
    last_activity_at  timestamptz,
    active_tasks      integer not null default 0,
    created_at        timestamptz not null default now(),
    updated_at        timestamptz not null default now(),
    policy            jsonb
) with (fillfactor = 85);
comment on table defib.workspaces is 'A fleet table for those who have none. Unused where defib.fleet was replaced by an adapter.';
comment on column defib.workspaces.id is 'The workspace; also the value of the container label defib.workspace.';
comment on column defib.workspaces.name is 'For people.';
comment on column defib.workspaces.status is 'Free text of the platform. Watched: DEFIB_WATCHED_STATUSES (online, degraded, offline). Parked: see defib.is_parked.';
comment on column defib.workspaces.kind is 'container: on an engine; instance: a machine behind a control plane; external: only its heartbeat can be seen.';
comment on column defib.workspaces.engine is 'A name from DEFIB_ENGINES.';
comment on column defib.workspaces.container_ref is 'Name or id of its container; null: found by the label.';
comment on column defib.workspaces.instance_ref is 'What the control plane calls it.';
comment on column defib.workspaces.parent_id is 'Its parent: a parked parent suspends the whole tree below. No foreign key, cycles do no harm.';
comment on column defib.workspaces.last_heartbeat_at is 'When it last said that it lives; null: never.';
comment on column defib.workspaces.last_activity_at is 'The last successful round trip to it; counts as a heartbeat.';
comment on column defib.workspaces.active_tasks is 'More than zero: it says it is working.';
comment on column defib.workspaces.created_at is 'When it was made.';
comment on column defib.workspaces.updated_at is 'When its status last changed.';
comment on column defib.workspaces.policy is 'Overrides for this workspace.';

create index workspaces_parent_id on defib.workspaces (parent_id) where parent_id is not null;
comment on index defib.workspaces_parent_id is 'From a parked parent to its children.';

create function defib.is_parked(status text) returns boolean
language sql immutable parallel safe
as $$
    select status in (
        'paused', 'pausing', 'hibernated', 'hibernating', 'suspended', 'suspending', 'stopped', 'stopping',
        'archived', 'archiving', 'removed', 'removing', 'deleted', 'deleting', 'terminated', 'terminating')
$$;
comment on function defib.is_parked(text) is
    'Whether somebody put a workspace of this status away on purpose. It is never judged, and nothing below it is.';

-- The list of defib.is_parked is repeated here, and the function is not called. So the planner uses the index only as long as the function
-- and the index have the same list.
create index workspaces_parked on defib.workspaces (id) where status in (
    'paused', 'pausing', 'hibernated', 'hibernating', 'suspended', 'suspending', 'stopped', 'stopping',
    'archived', 'archiving', 'removed', 'removing', 'deleted', 'deleting', 'terminated', 'terminating');
comment on index defib.workspaces_parked is 'Where the walk down from the parked ones starts.';

-- This is a function, and not a CTE in the view, because of the planner. It would overestimate the result of the recursion tenfold, take
-- the hash for too large for work_mem, and scan the list once for each row. Of a function it believes `rows`; a hashed subplan that turns
-- out larger costs some memory and nothing else. Inside the function the planner is told to walk from each parent to its children by the
-- index. By the same overestimate it would otherwise hash the whole fleet, and compile that. The function runs once in a query, and not at
-- all when no row has a parent.
create function defib.below_parked() returns setof text
language plpgsql stable security definer parallel restricted cost 10000 rows 1000
set search_path = pg_catalog, pg_temp set jit = off
    set enable_hashjoin = off set enable_mergejoin = off set enable_seqscan = off
as $$
begin
    return query
        with recursive below(id) as (
            select child.id
              from defib.workspaces parked join defib.workspaces child on child.parent_id = parked.id
             where defib.is_parked(parked.status)
            union -- not `union all`: a cycle ends here
            select child.id
              from below join defib.workspaces child on child.parent_id = below.id
        )
        select below.id from below;
end
$$;
comment on function defib.below_parked() is 'Every workspace that has a parked ancestor (one of its own descendants, in a cycle).';

create view defib.fleet as
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
comment on view defib.fleet is
    'The fleet as the daemon reads it, and all that it knows of the platform. Replace it to watch tables of your own (deploy/adapters).';
comment on column defib.fleet.workspace_id is 'The workspace.';
comment on column defib.fleet.name is 'For people.';
comment on column defib.fleet.status is 'Free text; watched are DEFIB_WATCHED_STATUSES.';
comment on column defib.fleet.kind is 'container, instance or external.';
comment on column defib.fleet.engine is 'A name from DEFIB_ENGINES.';
comment on column defib.fleet.container_ref is 'Name or id of the container; null: found by its label.';
comment on column defib.fleet.instance_ref is 'What the control plane calls it.';
comment on column defib.fleet.suspended is 'It or an ancestor is parked: never judged, never restarted.';
comment on column defib.fleet.last_heartbeat_at is 'Last sign of life; null: never one.';
comment on column defib.fleet.last_activity_at is 'Last successful round trip; counts as a heartbeat.';
comment on column defib.fleet.active_tasks is 'More than zero: it says it is working.';
comment on column defib.fleet.created_at is 'When it was made.';
comment on column defib.fleet.policy is 'Overrides for this workspace.';

create function defib.has_advanced(is_now timestamptz, was text) returns boolean
language sql stable parallel safe
as $$
    select is_now is not null and (was is null or is_now > was::timestamptz)
$$;
comment on function defib.has_advanced(timestamptz, text) is
    'Whether a sign of life is later than the one in the evidence; without one there, any is.';

-- Two locks, both until the claiming transaction ends: the row itself as an UPDATE of it would (so a heartbeat or a pause that
-- is under way is waited for, and seen), and its ancestors against change. Not FOR UPDATE: that would also wait for
-- every transaction that merely inserted a row with a foreign key to this one.
create function defib.mark_dead(workspace_id text, evidence jsonb) returns boolean
language plpgsql volatile security definer
set search_path = pg_catalog, pg_temp
as $$
declare
    found_row record;
    ancestor  record;
    above     text;
    seen      text[];
begin
    select w.status, w.parent_id, w.last_heartbeat_at, w.last_activity_at into found_row
      from defib.workspaces w where w.id = mark_dead.workspace_id for no key update;
    if not found
       or defib.is_parked(found_row.status)
       or (evidence ? 'status' and found_row.status is distinct from evidence ->> 'status')
       or defib.has_advanced(found_row.last_heartbeat_at, evidence ->> 'last_heartbeat_at')
       or defib.has_advanced(found_row.last_activity_at, evidence ->> 'last_activity_at') then
        return false;
    end if;

    above := found_row.parent_id;
    seen := array[mark_dead.workspace_id];
    while above is not null and above <> all (seen) loop
        select w.status, w.parent_id into ancestor from defib.workspaces w where w.id = above for share;
        exit when not found;
        if defib.is_parked(ancestor.status) then
            return false;
        end if;
        seen := seen || above;
        above := ancestor.parent_id;
    end loop;

    update defib.workspaces w set status = 'offline', updated_at = now()
     where w.id = mark_dead.workspace_id and w.status in ('online', 'degraded');
    return true;
end
$$;
comment on function defib.mark_dead(text, jsonb) is
    'The platform''s word before a restart. False is a veto: gone, parked, under a parked ancestor, another status than in the evidence, or a sign of life later than the evidence (last_heartbeat_at, last_activity_at; null: there was none). Otherwise the workspace is marked offline.';

create function defib.mark_recovered(workspace_id text, evidence jsonb) returns boolean
language plpgsql volatile security definer
set search_path = pg_catalog, pg_temp
as $$
begin
    update defib.workspaces w set status = 'online', updated_at = now()
     where w.id = mark_recovered.workspace_id and w.status = 'offline';
    return found;
end
$$;
comment on function defib.mark_recovered(text, jsonb) is
    'A heartbeat proved the recovery: offline becomes online, no other status is touched. True when it was changed.';
