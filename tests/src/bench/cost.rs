//! What a tick costs, of which size of fleet, beside the floor of the same work.

use std::time::Duration;

use anyhow::{Context, Result};

use super::Plan;
use super::floor::Floor;
use super::page::{self, FirstLooks};
use super::process::{cpu, cpu_since, memory, used};
use super::report::{Report, Row};
use super::world::{SHARES, World};
use crate::Daemon;

/// How often daemons with and without a recorder take turns.
const TURNS: usize = 2;

/// How many daemons have a first look taken at their page, where the page is measured alone.
const FIRST_LOOKS: usize = 4;

/// Processor time that was used during polls.
#[derive(Default)]
struct Spent {
    defib: Vec<Duration>,
    engines: Vec<Duration>,
    database: Vec<Duration>,
}

/// How many polls pass after everybody has beaten, until no read of what is new brings those heartbeats again.
const OVERLAP: u32 = 3;

/// Everything that is measured on the whole fleet, and how that grows with the fleet.
pub(super) async fn costs(plan: Plan, report: &mut Report) -> Result<()> {
    let large = whole(plan, report).await.context("the fleet")?;
    let what = "ten times the fleet, idle tick, CPU; floor: a tenth of it";
    if !plan.smaller {
        report.leave_out(what, "a quick run has one fleet");
        return Ok(());
    }
    let tenth = smaller(plan, 10, report).await.context("a tenth of the fleet")?;
    report.add(Row::ratio(what, &large, &tenth, 2.5));
    smaller(plan, 100, report).await.context("a hundredth of the fleet")?;
    Ok(())
}

/// What a fleet of so many times fewer workspaces on fewer engines costs. Returns the processor time of idle ticks.
async fn smaller(plan: Plan, times: usize, report: &mut Report) -> Result<Vec<Duration>> {
    let (workspaces, engines) = (plan.workspaces / times, (plan.engines / times).max(1));
    let mut world = World::new(workspaces, engines, plan.poll).await?;
    let daemon = world.daemon(&[]).await?;
    warm_up(&mut world, &daemon).await?;
    let steady = ticks(&mut world, &daemon, plan.ticks, true).await?;
    let idle = idle(&mut world, &daemon, plan.ticks).await?;
    let of = format!("{workspaces} workspaces on {engines} engines");
    report.add(Row::told(&format!("{of}: steady tick, CPU"), &steady.defib));
    report.add(Row::told(&format!("{of}: tick in which nothing changed, CPU"), &idle.defib));
    let (resident, peak) = memory(daemon.program.pid())?;
    report.add(Row::size(&format!("{of}: memory, resident"), resident, None));
    report.add(Row::size(&format!("{of}: memory, at its highest"), peak, None));
    end(daemon).await?;
    Ok(idle.defib)
}

/// What a replica that owns nothing costs beside the one that owns every engine, in the same polls.
async fn observer(world: &mut World, owner: &Daemon, plan: Plan, report: &mut Report) -> Result<()> {
    let watching = world.replica("bench-observer", &[]).await?;
    for _ in 0..SHARES + 2 {
        world.beat().await?;
        tokio::time::sleep(world.poll).await;
    }
    let (mut owners, mut observers) = (Vec::new(), Vec::new());
    for _ in 0..plan.ticks {
        let (of_owner, of_observer) = (cpu(owner.program.pid())?, cpu(watching.program.pid())?);
        world.beat().await?;
        tokio::time::sleep(world.poll).await;
        owners.push(cpu_since(owner.program.pid(), of_owner)?);
        observers.push(cpu_since(watching.program.pid(), of_observer)?);
    }
    let what = "steady tick of a replica that owns nothing, CPU; floor: the owner's";
    report.add(Row::ratio(what, &observers, &owners, 0.2));
    end(watching).await
}

/// Returns the processor time of idle ticks.
async fn whole(plan: Plan, report: &mut Report) -> Result<Vec<Duration>> {
    let mut world = World::new(plan.workspaces, plan.engines, plan.poll).await?;
    let floor = Floor::measure(&world, plan.ticks).await?;
    report.add(Row::told("floor: rows and lists, CPU", &floor.cpu()));
    report.add(Row::told("floor: the rows alone, CPU", &floor.rows_cpu()));

    let daemon = world.daemon(&[]).await?;
    warm_up(&mut world, &daemon).await?;
    let steady = ticks(&mut world, &daemon, plan.ticks, true).await?;
    report.add(Row::ratio("steady tick (a sixth has beaten), CPU", &steady.defib, &floor.cpu(), 0.12));
    let idle = idle(&mut world, &daemon, plan.ticks).await?;
    report.add(Row::ratio("tick in which nothing changed, CPU", &idle.defib, &floor.cpu(), 0.08));
    report.add(Row::ratio("the same, CPU of the database server", &idle.database, &floor.server_cpu(), 0.6));
    report.add(Row::told("the same, CPU of the scripted engines", &idle.engines));
    let (resident, peak) = memory(daemon.program.pid())?;
    let target = |most: f64| (plan.workspaces >= 100_000).then_some(most);
    report.add(Row::size("memory, resident", resident, target(96.0)));
    report.add(Row::size("memory, at its highest", peak, target(128.0)));
    let mut looks = FirstLooks::default();
    looks.at(&daemon).await?;
    looks.report(report);
    page::answers(&mut world, &daemon, report).await.context("the status page")?;
    observer(&mut world, &daemon, plan, report).await.context("a replica that owns nothing")?;
    end(daemon).await?;

    // Another daemon, each of whose ticks is a resync.
    let daemon = world.daemon(&[("DEFIB_RESYNC_INTERVAL", &format!("{}s", plan.poll.as_secs()))]).await?;
    let (spent, walls) = resyncs(&mut world, &daemon, plan.ticks).await?;
    report.add(Row::ratio("resync, wall", &walls, &floor.wall(), 1.3));
    report.add(Row::ratio("resync, CPU", &spent, &floor.cpu(), 1.3));
    end(daemon).await?;
    recorder(&mut world, plan, report).await.context("the flight recorder")?;
    Ok(idle.defib)
}

/// What the flight recorder adds, without the rest.
pub(super) async fn recorder_alone(plan: Plan, report: &mut Report) -> Result<()> {
    let mut world = World::new(plan.workspaces, plan.engines, plan.poll).await?;
    let daemon = world.daemon(&[]).await?;
    warm_up(&mut world, &daemon).await?;
    end(daemon).await?;
    recorder(&mut world, plan, report).await
}

/// How long the status page takes to answer, without the rest.
pub(super) async fn page_alone(plan: Plan, report: &mut Report) -> Result<()> {
    let mut world = World::new(plan.workspaces, plan.engines, plan.poll).await?;
    let daemon = world.daemon(&[]).await?;
    warm_up(&mut world, &daemon).await?;
    let mut looks = FirstLooks::default();
    looks.at(&daemon).await?;
    page::answers(&mut world, &daemon, report).await?;
    end(daemon).await?;
    for _ in 1..FIRST_LOOKS {
        let daemon = world.daemon(&[]).await?;
        know_everybody(&mut world, &daemon).await?;
        looks.at(&daemon).await?;
        end(daemon).await?;
    }
    looks.report(report);
    Ok(())
}

/// Steady ticks of daemons that differ only in whether they record, in turn, so that both sides suffer from whatever else runs.
async fn recorder(world: &mut World, plan: Plan, report: &mut Report) -> Result<()> {
    let directory = std::env::temp_dir().join(format!("defib-bench-recording-{}", std::process::id()));
    let path = directory.to_str().context("the directory for temporary files is no text")?.to_owned();
    let (mut without, mut with) = (Spent::default(), Spent::default());
    for round in 0..2 * TURNS {
        let records = round % 2 == 1;
        let knobs: &[(&str, &str)] = if records { &[("DEFIB_RECORD_DIR", &path)] } else { &[] };
        let daemon = world.daemon(knobs).await?;
        know_everybody(world, &daemon).await?;
        let spent = ticks(world, &daemon, plan.ticks / 2, true).await?;
        if records { &mut with } else { &mut without }.defib.extend(spent.defib);
        end(daemon).await?;
    }
    std::fs::remove_dir_all(&directory).context("remove the recording")?;
    let what = "steady tick with the flight recorder, CPU; floor: without it";
    report.add(Row::ratio(what, &with.defib, &without.defib, 1.03));
    Ok(())
}

/// The processor time of ticks in which all rows are read, and how long they take by the program's own metrics.
async fn resyncs(world: &mut World, daemon: &Daemon, count: usize) -> Result<(Vec<Duration>, Vec<Duration>)> {
    let (mut spent, mut walls) = (Vec::new(), Vec::new());
    let mut before = tick_totals(daemon).await?;
    for _ in 0..count {
        let used = cpu(daemon.program.pid())?;
        world.beat().await?;
        tokio::time::sleep(world.poll).await;
        spent.push(cpu_since(daemon.program.pid(), used)?);
        let now = tick_totals(daemon).await?;
        if now.0 > before.0 {
            walls.push(Duration::from_secs_f64((now.1 - before.1) / (now.0 - before.0)));
        }
        before = now;
    }
    Ok((spent, walls))
}

/// How many passes over the fleet were made, and the seconds that they took in all.
async fn tick_totals(daemon: &Daemon) -> Result<(f64, f64)> {
    let metrics = daemon.metrics().await?;
    let of = |series: &str| metrics.value(&format!("defib_tick_duration_seconds_{series}{{scope=\"fleet\"}}"));
    Ok((of("count")?, of("sum")?))
}

async fn end(daemon: Daemon) -> Result<()> {
    daemon.stop(Duration::from_secs(20)).await?;
    Ok(())
}

/// Until the interval of each heartbeat has been learned, for which three of them have to be seen.
async fn warm_up(world: &mut World, daemon: &Daemon) -> Result<()> {
    for _ in 0..3 * SHARES + 2 {
        world.beat().await?;
        tokio::time::sleep(world.poll).await;
    }
    all_are_alive(world, daemon).await
}

/// The same for a daemon that takes up the intervals that another one has learned: each share has to beat once.
async fn know_everybody(world: &mut World, daemon: &Daemon) -> Result<()> {
    for _ in 0..SHARES + 2 {
        world.beat().await?;
        tokio::time::sleep(world.poll).await;
    }
    all_are_alive(world, daemon).await
}

async fn all_are_alive(world: &World, daemon: &Daemon) -> Result<()> {
    let metrics = daemon.metrics().await?;
    let alive = metrics.value("defib_workspaces{verdict=\"alive\"}")?;
    #[expect(clippy::cast_precision_loss, reason = "a few hundred thousand")]
    let wanted = world.workspaces as f64;
    anyhow::ensure!(alive >= wanted, "only {alive} of {wanted} are alive");
    Ok(())
}

/// Ticks in which nobody has beaten. There are fewer of them than shares, so that no heartbeat is overdue before their end.
async fn idle(world: &mut World, daemon: &Daemon, count: usize) -> Result<Spent> {
    let mut spent = Spent::default();
    while spent.defib.len() < count {
        world.beat_all().await?;
        tokio::time::sleep(OVERLAP * world.poll).await;
        let more = ticks(world, daemon, (SHARES - 3).min(count - spent.defib.len()), false).await?;
        spent.defib.extend(more.defib);
        spent.engines.extend(more.engines);
        spent.database.extend(more.database);
    }
    Ok(spent)
}

/// The processor time in each of so many polls.
async fn ticks(world: &mut World, daemon: &Daemon, count: usize, beating: bool) -> Result<Spent> {
    let (pid, engines) = (daemon.program.pid(), world.engines.pid());
    let mut spent = Spent::default();
    for _ in 0..count {
        let (before, engines_before, database_before) = (cpu(pid)?, cpu(engines)?, world.backends().await?);
        if beating {
            world.beat().await?;
        }
        tokio::time::sleep(world.poll).await;
        spent.defib.push(cpu_since(pid, before)?);
        spent.engines.push(cpu_since(engines, engines_before)?);
        spent.database.push(used(&database_before, &world.backends().await?));
    }
    Ok(spent)
}
