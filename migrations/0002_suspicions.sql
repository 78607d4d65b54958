-- Suspicions: what a proxy may report. A report is one insert, and the most that can follow from it is a look at the container.

create table defib.suspicions (
    id           bigint generated always as identity primary key,
    workspace_id text not null,
    reporter     text not null,
    reason       text not null,
    http_status  integer,
    detail       text,
    reported_at  timestamptz not null default clock_timestamp(),
    taken_at     timestamptz,
    taken_by     text
) with (autovacuum_vacuum_scale_factor = 0.02, autovacuum_vacuum_threshold = 2000, autovacuum_vacuum_cost_delay = 0);
comment on table defib.suspicions is 'What proxies reported, written by defib.report_suspicion. Taken by marking rows: ids become visible out of order.';
comment on column defib.suspicions.id is 'In the order of insertion, not of visibility.';
comment on column defib.suspicions.workspace_id is 'As reported; it need not exist.';
comment on column defib.suspicions.reporter is 'Who reports.';
comment on column defib.suspicions.reason is 'A short word, such as connection_refused.';
comment on column defib.suspicions.http_status is 'What the request got, if it got anything.';
comment on column defib.suspicions.detail is 'For people.';
comment on column defib.suspicions.reported_at is 'When.';
comment on column defib.suspicions.taken_at is 'When a daemon took it; null: pending.';
comment on column defib.suspicions.taken_by is 'Which daemon took it.';

create index suspicions_pending on defib.suspicions (id) where taken_at is null;
comment on index defib.suspicions_pending is 'The queue.';
create index suspicions_pending_of on defib.suspicions (workspace_id) where taken_at is null;
comment on index defib.suspicions_pending_of is 'Whether a workspace has one pending, and so needs no further notification.';
create index suspicions_of on defib.suspicions (workspace_id, id);
comment on index defib.suspicions_of is 'For defib explain.';

-- Reports end up on terminals and in logs: C0, DEL and C1 could drive them, line and direction marks could forge them.
create function defib.visible(raw text, length_max integer) returns text
language plpgsql immutable parallel safe
as $$
declare
    cut text := left(raw, length_max);
begin
    if cut !~ '[\u0001-\u001f\u007f-\u009f\u2028-\u202e\u2066-\u2069]' then
        return cut;
    end if;
    select left(string_agg(
               case when c !~ '[\u0001-\u001f\u007f-\u009f\u2028-\u202e\u2066-\u2069]' then c
                    when ascii(c) < 256 then '\x' || lpad(to_hex(ascii(c)), 2, '0')
                    else '\u' || lpad(to_hex(ascii(c)), 4, '0') end, '' order by nth), length_max)
      into cut
      from unnest(string_to_array(cut, null)) with ordinality as characters(c, nth);
    return cut;
end
$$;
comment on function defib.visible(text, integer) is
    'The beginning of a text, with its control characters spelled out (\x1b). Null stays null.';

-- NOTIFY takes a lock that all notifying commits of the cluster share: about 4,000 a second is all there is. So only the first
-- pending suspicion of a workspace notifies. A report that arrives while the first is just being taken may go without: it
-- waits for the next take, at most one poll interval.
create function defib.report_suspicion(
    workspace_id text, reporter text, reason text, http_status integer default null, detail text default null)
returns void
language plpgsql volatile security definer
set search_path = pg_catalog, pg_temp
as $$
declare
    about   text := defib.visible(workspace_id, 200);
    pending boolean;
begin
    if about is null then
        return;
    end if;
    pending := exists (select from defib.suspicions s where s.workspace_id = about and s.taken_at is null);
    insert into defib.suspicions (workspace_id, reporter, reason, http_status, detail)
    values (about,
            coalesce(defib.visible(report_suspicion.reporter, 100), session_user),
            coalesce(defib.visible(report_suspicion.reason, 100), 'unspecified'),
            report_suspicion.http_status,
            defib.visible(report_suspicion.detail, 1000));
    if not pending then
        perform pg_notify('defib_suspicion', about);
    end if;
end
$$;
comment on function defib.report_suspicion(text, text, text, integer, text) is
    'All that a proxy may do: say that a workspace did not answer. Never fails for what is said: unknown workspaces are kept and ignored, long text is cut (200, 100, 100, 1000 characters), control characters are spelled out. Notifies defib_suspicion.';
