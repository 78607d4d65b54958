//! The commands of operators: migrate, suspect, hold, release, ack, restart, storm end.
//!
//! All but the first need no more than the role `defib_operator`: they call functions, which record the database login beside the
//! name of the system user.

use std::time::Duration;

use defib_policy::id::{EngineName, WorkspaceId};
use defib_store::{HoldScope, MigrateReport, NewHold, NewSuspicion, OrderState, Ordered, OrderedBy, Store};

use super::{AckArgs, Ended, HoldArgs, ReleaseArgs, RestartArgs, ScopeArgs, StormEndArgs, SuspectArgs};
use crate::logging::printable;
use crate::told::names::{NoSuch, must_exist, reason};
use crate::told::show;

/// The pause between two looks at what became of an order.
const ORDER_POLL: Duration = Duration::from_millis(200);

pub(super) async fn migrate(store: &Store) -> anyhow::Result<Ended> {
    let report = store.migrate().await?;
    if report.applied.is_empty() {
        say!("schema defib is up to date (version {})", report.to);
    } else {
        say!("schema defib migrated from version {} to {}: {}", report.from, report.to, report.applied.join(", "));
    }
    Ok(tell_missing_roles(&report))
}

/// Without its role the daemon, a proxy or an operator has no rights. The command fails now, because a deployment that went on would fail
/// later.
fn tell_missing_roles(report: &MigrateReport) -> Ended {
    if report.roles_missing.is_empty() {
        return Ended::Well;
    }
    complain!(
        "defib: these roles do not exist, and this login may not create roles: {}",
        report.roles_missing.join(", ")
    );
    complain!(
        "Have somebody with CREATEROLE run the following, then run `defib migrate` again, which grants them their rights:"
    );
    for role in &report.roles_missing {
        complain!("  create role {role} nologin;");
    }
    Ended::Failed
}

pub(super) async fn suspect(store: &Store, args: &SuspectArgs) -> anyhow::Result<Ended> {
    let why = reason(&args.reason)?;
    must_exist(store, &HoldScope::Workspace(args.workspace.as_str().into())).await?;
    let reporter = args.reporter.clone().unwrap_or_else(|| format!("operator:{}", show::user()));
    store
        .suspect(NewSuspicion {
            workspace: &args.workspace,
            reporter: &reporter,
            reason: why,
            http_status: args.http_status,
            detail: None,
        })
        .await?;
    say!(
        "reported: the daemon looks at {} at once, and restarts it only if it finds it dead; `defib explain {}` says what it found",
        printable(&args.workspace),
        printable(&args.workspace)
    );
    Ok(Ended::Well)
}

pub(super) async fn hold(store: &Store, args: &HoldArgs) -> anyhow::Result<Ended> {
    let why = reason(&args.reason)?;
    let scope = scope(&args.scope);
    let is_known = if args.force { store.is_known(&scope).await? } else { true };
    if !args.force {
        must_exist(store, &scope).await.map_err(|error| match error.downcast::<NoSuch>() {
            Ok(no_such) => NoSuch(format!("{no_such} (--force holds one that is still to come)")).into(),
            Err(error) => error,
        })?;
    }
    let owner = args.owner.clone().unwrap_or_else(show::user);
    store.hold(&NewHold { scope, owner: &owner, reason: why, expires_in: args.duration }).await?;
    let until = args
        .duration
        .map_or_else(|| "until `defib release`".to_owned(), |duration| format!("for {}", show::age(duration)));
    say!("restarts held: {} {until}", named(&args.scope));
    if !is_known {
        say!("note: nothing of that name exists yet; the hold covers it when it comes");
    }
    Ok(Ended::Well)
}

pub(super) async fn release(store: &Store, args: &ReleaseArgs) -> anyhow::Result<Ended> {
    let scope = scope(&args.scope);
    let released = store.release_as(&scope, &show::user()).await?;
    if released > 0 {
        let holds = if released == 1 { "hold" } else { "holds" };
        say!("{released} {holds} released: {}", named(&args.scope));
        return Ok(Ended::Well);
    }
    // This may be a typing error, so a target that exists and is not held gets another message than one that does not exist.
    must_exist(store, &scope).await?;
    complain!("defib: no hold stands on exactly {}: `defib status` lists the holds", named(&args.scope));
    Ok(Ended::Failed)
}

pub(super) async fn acknowledge(store: &Store, args: &AckArgs) -> anyhow::Result<Ended> {
    let id = WorkspaceId::from(args.workspace.as_str());
    let count = store.acknowledge_as(&id, &show::user()).await?;
    let shown = printable(&args.workspace);
    if count > 0 {
        let attempts = if count == 1 { "1 attempt".to_owned() } else { format!("{count} attempts") };
        let count = if count == 1 { "counts" } else { "count" };
        say!(
            "{attempts} of {shown} no longer {count}: if it is dead it is tried at once, and its back-off starts anew"
        );
        return Ok(Ended::Well);
    }
    must_exist(store, &HoldScope::Workspace(id)).await?;
    complain!("defib: {shown} has no ended attempt that counts, so there is nothing to acknowledge");
    Ok(Ended::Failed)
}

pub(super) async fn restart(store: &Store, args: &RestartArgs) -> anyhow::Result<Ended> {
    let why = reason(&args.reason)?;
    let id = WorkspaceId::from(args.workspace.as_str());
    must_exist(store, &HoldScope::Workspace(id.clone())).await?;
    let what = Ordered::Restart { workspace: id, force: args.force };
    let subject = format!("restart of {}", printable(&args.workspace));
    carry_out(store, &what, why, &subject, args.wait).await
}

pub(super) async fn end_storm(store: &Store, args: &StormEndArgs) -> anyhow::Result<Ended> {
    let why = reason(&args.reason)?;
    let engine = args.scope.engine.as_deref().map(EngineName::from);
    if let Some(engine) = &engine {
        must_exist(store, &HoldScope::Engine(engine.clone())).await?;
    }
    let subject = args.scope.engine.as_deref().map_or_else(
        || "end of the fleet's storm".to_owned(),
        |engine| format!("end of the storm on {}", printable(engine)),
    );
    carry_out(store, &Ordered::StormEnd { engine }, why, &subject, args.wait).await
}

/// Gives an order, and waits until the daemon has answered it.
async fn carry_out(
    store: &Store,
    what: &Ordered,
    why: &str,
    subject: &str,
    patience: Duration,
) -> anyhow::Result<Ended> {
    let id = store.order(what, OrderedBy { person: &show::user(), reason: why }).await?;
    let began = tokio::time::Instant::now();
    loop {
        let state = store.order_state(id).await?;
        match state {
            Some(OrderState { done: Some(done), answer, outcome, error, .. }) => {
                return Ok(tell(subject, done, answer.as_deref(), outcome.as_deref(), error.as_deref()));
            }
            Some(state) if state.owner.is_none() && state.taken_by.is_none() && store.withdraw_order(id).await? => {
                complain!(
                    "defib: no replica owns the engine now, so nobody can carry out the {subject}. Withdrawn; `defib status` says who runs"
                );
                return Ok(Ended::Failed);
            }
            Some(_) => {}
            None => anyhow::bail!("order {id} is gone"),
        }
        if began.elapsed() >= patience {
            return give_up(store, id, subject, patience).await;
        }
        tokio::time::sleep(ORDER_POLL).await;
    }
}

fn tell(subject: &str, done: bool, answer: Option<&str>, outcome: Option<&str>, error: Option<&str>) -> Ended {
    let answer = answer.map_or_else(String::new, |answer| format!(": {}", printable(answer)));
    if done && outcome.is_none_or(|outcome| outcome == "succeeded") {
        say!("{subject}: done{answer}");
        return Ended::Well;
    }
    let error = error.map_or_else(String::new, |error| format!(" ({})", printable(error)));
    complain!("defib: {subject}: not done{answer}{error}");
    Ended::Failed
}

async fn give_up(store: &Store, id: i64, subject: &str, patience: Duration) -> anyhow::Result<Ended> {
    if store.withdraw_order(id).await? {
        complain!(
            "defib: nobody took the {subject} within {}; withdrawn. `defib status` says who runs",
            show::age(patience)
        );
    } else {
        complain!(
            "defib: the {subject} is still under way after {}; `defib explain` says what came of it",
            show::age(patience)
        );
    }
    Ok(Ended::Failed)
}

fn scope(args: &ScopeArgs) -> HoldScope {
    match (&args.engine, &args.workspace) {
        (Some(engine), _) => HoldScope::Engine(engine.as_str().into()),
        (None, Some(workspace)) => HoldScope::Workspace(workspace.as_str().into()),
        (None, None) => HoldScope::Fleet,
    }
}

fn named(args: &ScopeArgs) -> String {
    match (&args.engine, &args.workspace) {
        (Some(engine), _) => format!("engine {}", printable(engine)),
        (None, Some(workspace)) => format!("workspace {}", printable(workspace)),
        (None, None) => "the whole fleet".to_owned(),
    }
}
