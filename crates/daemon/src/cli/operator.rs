//! What an operator tells defib: migrate, suspect, hold, release, ack.

use defib_policy::id::WorkspaceId;
use defib_store::{HoldScope, NewHold, NewSuspicion, Store};

use super::{Ended, HoldArgs, ReleaseArgs, ScopeArgs, SuspectArgs, show};
use crate::logging::printable;

pub(super) async fn migrate(store: &Store) -> anyhow::Result<Ended> {
    let report = store.migrate().await?;
    if report.applied.is_empty() {
        say!("schema defib is up to date (version {})", report.to);
    } else {
        say!("schema defib migrated from version {} to {}: {}", report.from, report.to, report.applied.join(", "));
    }
    if !report.roles_missing.is_empty() {
        say!(
            "roles that could not be created: {}; have a superuser create them, then migrate again to grant them their rights",
            report.roles_missing.join(", ")
        );
    }
    Ok(Ended::Well)
}

pub(super) async fn suspect(store: &Store, args: &SuspectArgs) -> anyhow::Result<Ended> {
    let reporter = args.reporter.clone().unwrap_or_else(|| format!("operator:{}", show::user()));
    store
        .suspect(NewSuspicion {
            workspace: &args.workspace,
            reporter: &reporter,
            reason: &args.reason,
            http_status: args.http_status,
            detail: None,
        })
        .await?;
    say!("reported; the daemon looks at {} and restarts it only if it is dead", printable(&args.workspace));
    Ok(Ended::Well)
}

pub(super) async fn hold(store: &Store, args: &HoldArgs) -> anyhow::Result<Ended> {
    let owner = args.owner.clone().unwrap_or_else(show::user);
    let hold = NewHold { scope: scope(&args.scope), owner: &owner, reason: &args.reason, expires_in: args.duration };
    store.hold(&hold).await?;
    let until = args
        .duration
        .map_or_else(|| "until `defib release`".to_owned(), |duration| format!("for {}", show::age(duration)));
    say!("restarts held: {} {until}", named(&args.scope));
    if !is_known(store, &hold.scope).await? {
        say!("note: nothing of that name is in defib.fleet now; the hold stands all the same");
    }
    Ok(Ended::Well)
}

/// Whether there is anything that a hold covers: a misspelt name would protect nobody.
async fn is_known(store: &Store, scope: &HoldScope) -> anyhow::Result<bool> {
    Ok(match scope {
        HoldScope::Fleet => true,
        HoldScope::Workspace(id) => store.explain(id, 1).await?.workspace.is_some(),
        HoldScope::Engine(name) => {
            let has = |engine: &str| engine == name.as_str();
            store.leases().await?.iter().any(|lease| has(lease.engine.as_str()))
                || store.status().await?.iter().any(|row| row.engine.as_deref().is_some_and(has))
        }
    })
}

pub(super) async fn release(store: &Store, args: &ReleaseArgs) -> anyhow::Result<Ended> {
    let released = store.release(&scope(&args.scope)).await?;
    say!("{released} holds released: {}", named(&args.scope));
    Ok(if released == 0 { Ended::Failed } else { Ended::Well })
}

pub(super) async fn acknowledge(store: &Store, workspace: &str) -> anyhow::Result<Ended> {
    let count = store.acknowledge(&WorkspaceId::from(workspace)).await?;
    say!("{count} attempts of {} no longer count", printable(workspace));
    Ok(if count == 0 { Ended::Failed } else { Ended::Well })
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
