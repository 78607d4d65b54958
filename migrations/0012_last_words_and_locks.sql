-- What a container said before it died, in the ledger itself, and what its health check had said. And a report of a suspicion that waits for a
-- lock fails nobody's transaction.

alter table defib.restarts add column last_words text
    constraint restarts_last_words_check check (octet_length(last_words) <= 16384);
comment on column defib.restarts.last_words is
    'What the container said before it died, for people: how it had ended, the last results of its health check, and the end of its log, at most 16 KiB. Its parts are in defib.last_words. Null: not known, or written by an earlier version.';

alter table defib.last_words add column health text
    constraint last_words_health_check check (octet_length(health) <= 4096);
comment on column defib.last_words.health is
    'The last results of its health check, each with its exit code and what it printed, at most 4 KiB, control characters spelled out; null: it has none, or they are not known.';

-- As before, but the reads are in the block as well: while somebody has locked the whole table, as `vacuum full` does, the report is dropped
-- after a tenth of a second. Until now the error went to the caller, and ended the platform's transaction.
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
    begin
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
