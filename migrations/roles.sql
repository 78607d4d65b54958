-- Roles and rights. Run by every `defib migrate`, not only once: roles are the cluster's, so another database's migration
-- may be creating them at this moment, and where we may not create them a DBA does it later.

do $$
declare
    wanted record;
begin
    for wanted in
        select * from (values
            ('defib_daemon', 'defib: what the daemon needs. Grant it to the login that runs `defib run`.'),
            ('defib_operator', 'defib: may hold, release, acknowledge, suspect and order restarts, and read nothing. Grant it to people, with defib_viewer for those who look as well.'),
            ('defib_reporter', 'defib: may call defib.report_suspicion and nothing else. Grant it to proxies.'),
            ('defib_viewer', 'defib: may read everything of defib. Grant it to dashboards.')) as roles(name, about)
         order by 1
    loop
        continue when exists (select from pg_catalog.pg_roles where rolname = wanted.name);
        begin
            execute format('create role %I nologin', wanted.name);
            execute format('comment on role %I is %L', wanted.name, wanted.about);
        exception
            when duplicate_object or unique_violation then
                null; -- another database's migration was first
            when insufficient_privilege then
                raise warning 'defib: role % does not exist and may not be created by %; create it (nologin) and migrate again',
                    wanted.name, current_user;
        end;
    end loop;
end
$$;

do $$
declare
    has_daemon   boolean := exists (select from pg_catalog.pg_roles where rolname = 'defib_daemon');
    has_operator boolean := exists (select from pg_catalog.pg_roles where rolname = 'defib_operator');
    has_reporter boolean := exists (select from pg_catalog.pg_roles where rolname = 'defib_reporter');
    has_viewer   boolean := exists (select from pg_catalog.pg_roles where rolname = 'defib_viewer');
begin
    -- Postgres lets everybody execute a new function unless that is revoked. It is revoked for all functions of the schema, so that a new
    -- one cannot be forgotten.
    revoke all on all functions in schema defib from public;
    if has_daemon then
        grant usage on schema defib to defib_daemon;
        grant select on all tables in schema defib to defib_daemon;
        grant insert, update, delete on defib.suspicions, defib.restarts, defib.leases, defib.replicas, defib.holds, defib.verdicts,
            defib.events, defib.marks, defib.engines, defib.cadences, defib.clock_steps, defib.orders, defib.last_words, defib.webhook,
            defib.outbox to defib_daemon;
        grant execute on all functions in schema defib to defib_daemon;
    end if;
    if has_reporter then
        grant usage on schema defib to defib_reporter;
        grant execute on function defib.report_suspicion(text, text, text, integer, text) to defib_reporter;
    end if;
    if has_operator then
        grant usage on schema defib to defib_operator;
        grant execute on function
            defib.place_hold(text, text, text, text, interval), defib.release_holds(text, text, text), defib.acknowledge(text, text),
            defib.report_suspicion(text, text, text, integer, text), defib.order_restart(text, text, text, boolean),
            defib.order_storm_end(text, text, text), defib.order_state(bigint), defib.withdraw_order(bigint),
            defib.is_known(text, text), defib.names_like(text, text), defib.resume_webhook()
            to defib_operator;
    end if;
    if has_viewer then
        grant usage on schema defib to defib_viewer;
        grant select on all tables in schema defib to defib_viewer;
        -- The view calls these functions, and a function in a view runs with the rights of whoever reads the view. (An adapter grants what
        -- its own view calls.)
        grant execute on function defib.is_parked(text), defib.below_parked() to defib_viewer;
        grant execute on function defib.has_parked_ancestor(text), defib.count_lost_messages() to defib_viewer;
    end if;
exception
    when insufficient_privilege then
        raise warning 'defib: rights were not granted, % does not own everything in schema defib: %', current_user, sqlerrm;
end
$$;
