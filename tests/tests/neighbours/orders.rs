//! An order of an operator waits for no engine but its own workspace's, and for no other order: not for those that fail, and not for those
//! that nobody carries out.

use std::time::Duration;

use anyhow::{Result, ensure};
use defib_testkit::scripted_engine::{Call, Fault, FaultRule};
use defib_testkit::{ScriptedEngine, eventually};
use defib_tests::{SOON, Stage, Workspace, container};

/// An order is carried out within a second or two. What waits for one hanging engine after the other takes minutes.
const PROMPTLY: &str = "15s";

/// How many orders go before the one that must not wait for them.
const MANY: usize = 60;

#[tokio::test]
async fn orders_for_an_engine_that_hangs_delay_no_restart_and_no_end_of_a_storm_elsewhere() -> Result<()> {
    let (stage, _engine) = Stage::with_one(Workspace::new("w1")).await?;
    let hanging = ScriptedEngine::start().await?;
    let stage = stage.engine("hanging", &hanging.url());
    for n in 1..=MANY {
        let id = format!("h{n:02}");
        hanging.add(container(&id));
        stage.db.add(Workspace::new(&id).engine("hanging")).await?;
    }
    let _daemon = stage.run().await?;
    for call in [Call::Ping, Call::Version, Call::Info, Call::List, Call::Inspect] {
        hanging.set_fault(call, Fault::Hang);
    }
    order_all(&stage, "hanging").await?;
    wait_for_count(&stage, "an order for the engine that hangs is taken", TAKEN_OF_HANGING, |count| count > 0).await?;

    let none = stage.defib(&["storm", "end", "default", "--reason", "r", "--wait", PROMPTLY]).await?.with_code(1)?;
    ensure!(none.stderr.contains("there is no storm"), "{none:?}");
    let done = stage.defib(&["restart", "w1", "--reason", "r", "--wait", PROMPTLY]).await?.with_code(0)?;
    ensure!(done.stdout.contains("restart of w1: done"), "{done:?}");
    let none = stage.defib(&["storm", "end", "hanging", "--reason", "r", "--wait", PROMPTLY]).await?.with_code(1)?;
    ensure!(none.stderr.contains("there is no storm"), "{none:?}");
    let waiting = stage.db.count("select count(*) from defib.orders where ended_at is null").await?;
    ensure!(waiting > 0, "the engine that hangs has answered all of its orders, so nothing was shown");
    Ok(())
}

/// How many orders for workspaces on the engine that hangs a replica has taken.
const TAKEN_OF_HANGING: &str =
    "select count(*) from defib.orders where workspace_id like 'h%' and taken_at is not null";

#[tokio::test]
async fn an_order_that_fails_is_told_and_stops_no_other() -> Result<()> {
    let (stage, engine) = Stage::with_one(Workspace::new("w1")).await?;
    engine.add(container("w2"));
    stage.db.add(Workspace::new("w2")).await?;
    stage
        .db
        .execute(
            "create function public.refuse() returns trigger language plpgsql as $$ begin raise 'scripted: not this one'; end $$;
             create trigger refuse before update on defib.orders for each row when (old.workspace_id = 'w1')
                execute function public.refuse()",
        )
        .await?;
    let daemon = stage.run().await?;
    stage.db.execute("select defib.order_restart('w1', 'r')").await?;
    let done = stage.defib(&["restart", "w2", "--reason", "r", "--wait", PROMPTLY]).await?.with_code(0)?;
    ensure!(done.stdout.contains("restart of w2: done"), "{done:?}");
    let none = stage.defib(&["storm", "end", "default", "--reason", "r", "--wait", PROMPTLY]).await?.with_code(1)?;
    ensure!(none.stderr.contains("there is no storm"), "{none:?}");
    daemon.program.wait_for_line("scripted: not this one", SOON).await?;
    Ok(())
}

/// More of them than one turn looks at: some are another replica's to carry out, which does not; others were taken by a replica that is gone.
#[tokio::test]
async fn orders_that_nobody_carries_out_take_no_places_from_others_and_are_void_in_the_end() -> Result<()> {
    let (stage, _engine) = Stage::with_one(Workspace::new("w1")).await?;
    stage
        .db
        .execute(
            "insert into defib.leases (engine, holder, epoch, expires_at) values ('elsewhere', 'r9', 1, now() + interval '1 hour');
             insert into defib.workspaces (id, engine) select 'e' || n, 'elsewhere' from generate_series(1, 1100) n;
             insert into defib.workspaces (id, status) select 'g' || n, 'failed' from generate_series(1, 1100) n",
        )
        .await?;
    order_all(&stage, "elsewhere").await?;
    stage
        .db
        .execute(
            "select defib.order_restart(id, 'r') from defib.workspaces where id like 'g%';
             update defib.orders set taken_by = 'gone', taken_at = now() where workspace_id like 'g%';
             select defib.order_storm_end('elsewhere', 'r') from generate_series(1, 1100)",
        )
        .await?;
    let _daemon = stage.run().await?;

    let done = stage.defib(&["restart", "w1", "--reason", "r", "--wait", PROMPTLY]).await?.with_code(0)?;
    ensure!(done.stdout.contains("restart of w1: done"), "{done:?}");
    let none = stage.defib(&["storm", "end", "default", "--reason", "r", "--wait", PROMPTLY]).await?.with_code(1)?;
    ensure!(none.stderr.contains("there is no storm"), "{none:?}");
    let ended = stage.db.count("select count(*) from defib.orders where ended_at is not null").await?;
    ensure!(ended == 2, "{ended} orders have ended, though only two could be answered");

    // Ten of each kind, so that the test need not wait for all of them.
    stage
        .db
        .execute(
            "delete from defib.orders where ended_at is null and id not in (
                 select id from (select id, row_number() over (partition by kind, left(workspace_id, 1) order by id) as nth
                                   from defib.orders where ended_at is null) o where nth <= 10);
             update defib.orders set ordered_at = ordered_at - interval '11 minutes' where ended_at is null",
        )
        .await?;
    wait_for_count(&stage, "all that nobody carried out are void", VOID, |count| count == 30).await
}

/// It waits for another one on its engine for longer than an order stands that nobody has taken.
#[tokio::test]
async fn an_order_that_was_taken_and_waits_for_its_place_is_not_void() -> Result<()> {
    let (stage, engine) = Stage::with_one(Workspace::new("w1")).await?;
    engine.add(container("w2"));
    stage.db.add(Workspace::new("w2")).await?;
    let stage = stage.knob("RESTART_CONCURRENCY", "1");
    engine.add_fault(FaultRule::new(Call::Restart, Fault::Delay(Duration::from_secs(8))).container("w1"));
    let _daemon = stage.run().await?;
    stage.db.execute("select defib.order_restart('w1', 'r')").await?;
    stage.db.wait_for_claim("w1").await?;
    stage.db.execute("select defib.order_restart('w2', 'r')").await?;
    let taken = "select count(*) from defib.orders where workspace_id = 'w2' and taken_at is not null";
    wait_for_count(&stage, "the second order is taken", taken, |count| count == 1).await?;
    stage.db.execute("update defib.orders set ordered_at = ordered_at - interval '11 minutes'").await?;

    let done = "select count(*) from defib.orders where done";
    wait_for_count(&stage, "both orders are carried out", done, |count| count == 2).await?;
    ensure!(engine.restarts() == 2, "{} restarts", engine.restarts());
    Ok(())
}

/// How many orders were declared void.
const VOID: &str = "select count(*) from defib.orders where not done and answer like 'void: nobody carried it out%'";

/// Orders a restart of each workspace on an engine.
async fn order_all(stage: &Stage, engine: &str) -> Result<()> {
    stage
        .db
        .execute(&format!("select defib.order_restart(id, 'r') from defib.workspaces where engine = '{engine}'"))
        .await
}

async fn wait_for_count(stage: &Stage, what: &str, sql: &str, enough: impl Fn(i64) -> bool) -> Result<()> {
    eventually(SOON, what, async || match stage.db.count(sql).await {
        Ok(count) if enough(count) => Ok(()),
        other => Err(format!("{other:?}")),
    })
    .await
}
