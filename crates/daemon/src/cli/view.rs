//! `defib status` and `defib explain`: reads the tables, and prints what [`crate::told`] says of them.

use std::io::IsTerminal as _;

use defib_policy::id::WorkspaceId;
use defib_store::{FleetScope, Store};

use super::{Ended, ExplainArgs, Format, StatusArgs};
use crate::logging::chain;
use crate::told::explain;
use crate::told::names::{NoSuch, unknown};
use crate::told::standing::Voices;
use crate::told::status::{Filter, Picture};

/// The pause between two pictures of `--watch`, unless `--watch` gives another one.
pub(super) const WATCH_EVERY: &str = "2s";

pub(super) async fn status(store: &Store, args: &StatusArgs) -> anyhow::Result<Ended> {
    let filter =
        Filter { ids: &args.workspaces, verdicts: &args.verdict, engines: &args.engine, troubled: args.troubled };
    let Some(every) = args.watch else {
        let picture = Picture::take(store).await?;
        filter.must_fit(&picture)?;
        let text = match args.format {
            Format::Json => picture.json(&filter)?,
            Format::Table => picture.text(&filter),
        };
        say!("{}", text.trim_end());
        let failed = args.exit_code && picture.has_trouble(&filter);
        return Ok(if failed { Ended::Failed } else { Ended::Well });
    };
    // This goes on until somebody ends it. If the database goes away meanwhile, that is shown, and the watching goes on.
    loop {
        let text = match Picture::take(store).await {
            Ok(picture) if args.format == Format::Json => picture.json(&filter)?,
            Ok(picture) => picture.text(&filter),
            Err(error) => format!("{}\n", chain(error.as_ref())),
        };
        if std::io::stdout().is_terminal() {
            say!("\u{1b}[2J\u{1b}[H{}", text.trim_end());
        } else {
            say!("{}\n", text.trim_end());
        }
        tokio::time::sleep(every).await;
    }
}

pub(super) async fn explain(store: &Store, args: &ExplainArgs) -> anyhow::Result<Ended> {
    let id = WorkspaceId::from(args.workspace.as_str());
    let explanation = store.explain(&id, args.limit).await?;
    let voices = Voices::read(store, FleetScope::Some(std::slice::from_ref(&id))).await?;
    if explanation.workspace.is_none() && explanation.timeline.is_empty() {
        let rows = store.status().await?;
        let no_such = unknown("workspace", &args.workspace, rows.iter().map(|row| row.id.as_str()));
        return Err(NoSuch(format!("{no_such} (it is not in defib.fleet, and nothing is recorded about it)")).into());
    }
    let text = match args.format {
        Format::Json => serde_json::to_string_pretty(&explain::as_json(&explanation, &voices))?,
        Format::Table => explain::text(&args.workspace, &explanation, &voices),
    };
    say!("{}", text.trim_end());
    Ok(Ended::Well)
}
