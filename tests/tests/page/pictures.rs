//! Takes the pictures of `docs/status-page.md` (`make pictures`): each place on a wide and on a narrow screen, light and dark.

use std::path::Path;

use anyhow::{Context, Result};
use base64::Engine as _;
use defib_tests::Stage;
use serde_json::json;

use crate::driver::Browser;
use crate::world::{NO_ENGINE, World};

/// Each place with the name that its pictures have, and how much of it they show on a wide screen. A narrow one shows a little more.
const PLACES: [(&str, &str, u32); 7] = [
    ("fleet", "/", 700),
    ("workspaces", "/workspaces", 560),
    ("workspace", "/workspaces/w6417", 1000),
    ("restarts", "/restarts", 720),
    ("holds", "/holds", 380),
    ("engines", "/engines", 700),
    ("engine", "/engines/e7", 760),
];

/// A picture of the docs is no bigger than this, so that the whole set costs a clone little.
const BYTES_MAX: usize = 60_000;

/// What the other replicas would write with each pass. The pictures take longer than a pass.
const JUST_NOW: &str =
    "update defib.replicas set last_pass_at = now() - interval '2 seconds' where replica <> 'defib-c';
    update defib.engines set asked_at = now() - interval '2 seconds', last_pass_at = now() - interval '2 seconds';
    update defib.verdicts set updated_at = now() - interval '2 seconds'";

#[tokio::test]
#[ignore = "it writes the pictures in docs/status-page anew: make pictures"]
async fn pictures_of_each_place_for_the_docs() -> Result<()> {
    let engines: Vec<String> = (1..=10).map(|number| format!("e{number}={NO_ENGINE}")).collect();
    let stage = Stage::new(NO_ENGINE)
        .await?
        .knob("ENGINES", &engines.join(","))
        .knob("REPLICA_ID", "defib-c")
        .quick_heartbeats();
    let world = World::with(stage, include_str!("../../sql/pictures.sql")).await?;
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/status-page");
    let browser = Browser::start().await?;
    browser.devtools("Emulation.setScrollbarsHidden", json!({ "hidden": true })).await?;
    for (name, place, height) in PLACES {
        for (size, width, height) in [("wide", 1180, height), ("narrow", 390, height.min(600) + 180)] {
            for scheme in ["light", "dark"] {
                world.stage.db.execute(JUST_NOW).await?;
                browser.look(scheme, width, height).await?;
                browser.open(&world.address(place)).await?;
                browser.until("the page is live", "document.getElementById('stream').textContent === 'live'").await?;
                let file = format!("{name}-{size}-{scheme}.webp");
                let taken = browser
                    .devtools(
                        "Page.captureScreenshot",
                        json!({ "format": "webp", "quality": 82, "optimizeForSpeed": false }),
                    )
                    .await?;
                let picture = base64::engine::general_purpose::STANDARD
                    .decode(taken["data"].as_str().context("no picture")?)
                    .with_context(|| file.clone())?;
                anyhow::ensure!(
                    picture.len() <= BYTES_MAX,
                    "{file} has {} bytes, of {BYTES_MAX} at most",
                    picture.len()
                );
                std::fs::write(folder.join(&file), picture).with_context(|| file.clone())?;
            }
        }
    }
    Ok(())
}
