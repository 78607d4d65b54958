//! The page in a real browser: each place, with and without script, by keyboard alone, live, and as a screen reader presents it.

use anyhow::{Context, Result, ensure};
use defib_testkit::PrivateDockerd;
use defib_tests::{Agent, Stage, Workspace};
use serde_json::{Value, json};

use crate::driver::{Browser, ENTER, TAB};
use crate::world::{HOSTILE_ESCAPED, World};

/// axe-core: rules of accessibility, run in the page.
const AXE: &str = include_str!("../../vendor/axe-core/axe.min.js");

/// The findings of axe that a reader suffers from.
const SERIOUS: &str = "
    const found = await axe.run(document, { resultTypes: ['violations'] });
    return found.violations.filter((rule) => rule.impact === 'serious' || rule.impact === 'critical')
        .map((rule) => [rule.id, rule.help, rule.nodes.slice(0, 3).map((node) => [node.html.slice(0, 200), node.failureSummary])]);";

fn places() -> [String; 9] {
    let hostile = format!("/workspaces/{HOSTILE_ESCAPED}");
    [
        "/",
        "/workspaces",
        "/workspaces/w17",
        "/workspaces/w1",
        &hostile,
        "/restarts",
        "/holds",
        "/engines",
        "/engines/e1",
    ]
    .map(str::to_owned)
}

#[tokio::test]
async fn each_place_is_accessible_light_and_dark_wide_and_narrow_and_runs_nobodys_script() -> Result<()> {
    let world = World::new(600, 3).await?;
    let browser = Browser::start().await?;
    for (scheme, width) in [("light", 1280), ("dark", 390)] {
        browser.look(scheme, width, 900).await?;
        for place in places() {
            browser.open(&world.address(&place)).await?;
            let page = "return [document.querySelectorAll('script').length, document.querySelectorAll('h1').length,
                                document.documentElement.scrollWidth <= innerWidth, getComputedStyle(document.body).colorScheme]";
            let seen = browser.run(page).await?;
            ensure!(seen[0] == 1 && seen[1] == 1, "{place}: one script, ours, and one heading: {seen}");
            if seen[2] != true {
                let wide = "return [...document.querySelectorAll('body *')].filter(it => it.getBoundingClientRect().right > innerWidth)
                            .map(it => it.outerHTML.slice(0, 300))";
                let wide = browser.run(wide).await?;
                anyhow::bail!("{place} at {width} is wider than its window, for: {wide:#}");
            }
            // Injected by the driver, not by the page, whose policy would refuse it.
            let findings = browser.run(&format!("{AXE}; return (async () => {{ {SERIOUS} }})()")).await?;
            ensure!(findings == json!([]), "{place} {scheme} {width}: {findings:#}");
        }
    }
    Ok(())
}

#[tokio::test]
async fn without_script_one_finds_filters_and_turns_pages() -> Result<()> {
    let world = World::new(600, 3).await?;
    let browser = Browser::start().await?;
    browser.devtools("Emulation.setScriptExecutionDisabled", json!({ "value": true })).await?;
    browser.open(&world.address("/")).await?;
    ensure!(browser.run("return document.getElementById('stream').textContent").await? == "", "the script ran");

    browser.click(".counts a[href$='verdict=dead']").await?;
    browser.until("the dead one alone", "document.querySelectorAll('tbody tr').length === 1").await?;
    browser.click("tbody th a").await?;
    browser.until("the workspace", "document.querySelector('h1').textContent.startsWith('w17')").await?;
    // A span leads to its words.
    let spans = browser.run("return document.querySelectorAll('.episode a').length").await?;
    ensure!(spans.as_u64().is_some_and(|spans| spans >= 6), "{spans} spans");
    browser.click(".story details summary").await?;
    browser.until("the evidence", "document.querySelector('.story details').open").await?;

    browser.click("#search").await?;
    browser.press("agent 59").await?;
    browser.press(ENTER).await?;
    browser
        .until("what was searched", "document.querySelector('.found')?.textContent.startsWith('11 workspaces of 603')")
        .await?;

    browser.open(&world.address("/workspaces")).await?;
    let mut seen = 0;
    loop {
        let rows = browser.run("return document.querySelectorAll('tbody tr').length").await?;
        seen += rows.as_u64().context("rows")?;
        if browser.run("return document.querySelector('a[rel=next]') === null").await? == true {
            break;
        }
        let before = browser.run("return location.href").await?;
        browser.click("a[rel=next]").await?;
        browser.until("the next page", &format!("location.href !== {before}")).await?;
    }
    ensure!(seen == 603, "{seen} workspaces on all pages");
    Ok(())
}

/// Where the focus is.
const FOCUS: &str = "return [document.activeElement.getAttribute('class') ?? '', document.activeElement.getAttribute('href') ?? '', document.activeElement.id]";

/// Presses Tab until the focus is where it is wanted.
async fn tab_to(browser: &Browser, what: &str, wanted: impl Fn(&Value) -> bool) -> Result<()> {
    for _ in 0..60 {
        browser.press(TAB).await?;
        if wanted(&browser.run(FOCUS).await?) {
            return Ok(());
        }
    }
    anyhow::bail!("{what} was not reached in 60 steps")
}

#[tokio::test]
async fn a_keyboard_is_enough() -> Result<()> {
    let world = World::new(600, 3).await?;
    let browser = Browser::start().await?;
    browser.open(&world.address("/")).await?;
    browser.press(TAB).await?;
    ensure!(browser.run(FOCUS).await?[0] == "skip", "the first stop leads past the navigation");
    browser.press(ENTER).await?;
    tab_to(&browser, "the dead one", |focus| focus[1] == "/workspaces/w17").await?;
    browser.press(ENTER).await?;
    browser.until("the workspace", "document.querySelector('h1').textContent.startsWith('w17')").await?;

    tab_to(&browser, "a span", |focus| focus[0].as_str().is_some_and(|class| class.contains("span bad"))).await?;
    browser
        .until("its evidence", "document.getElementById('note').textContent.includes('heartbeat stale for 80 s')")
        .await?;
    browser.press(ENTER).await?;
    browser
        .until("its words", "document.querySelector('.story :target')?.textContent.includes('suspect → dead')")
        .await?;
    Ok(())
}

#[tokio::test]
async fn an_open_page_shows_a_death_and_the_return_by_itself_and_nothing_else_moves() -> Result<()> {
    let dockerd = PrivateDockerd::shared().await?;
    let stage = Stage::new(dockerd.url()).await?.quick_heartbeats();
    let agent = Agent::start(dockerd, "watched").await?;
    stage.db.add(Workspace::new(&agent.id).silent()).await?;
    stage.defib(&["hold", &agent.id, "--reason", "to be looked at"]).await?.with_code(0)?;
    let daemon = stage.run().await?;
    let browser = Browser::start().await?;
    browser.open(&format!("http://{}/workspaces?q=watched", daemon.address())).await?;
    browser.until("the page is live", "document.getElementById('stream').textContent === 'live'").await?;
    // These would be lost by a reload.
    browser.run("window.kept = document.querySelector('.filters input'); window.kept.focus(); window.kept.value = 'half a wo'").await?;

    agent.die().await?;
    let word = |word: &str| format!("document.querySelector('tbody .state')?.textContent === '{word}'");
    browser.until("the death", &word("dead")).await?;
    browser.until("why nothing is done", "document.querySelector('.held')?.textContent === 'held: operator'").await?;
    let kept = "window.kept === document.activeElement && window.kept.value === 'half a wo'";
    ensure!(browser.run(&format!("return {kept}")).await? == true, "the focus or what was typed is gone");

    stage.defib(&["release", &agent.id]).await?.with_code(0)?;
    browser.until("the return", &word("settling")).await?;
    ensure!(browser.run(&format!("return {kept}")).await? == true, "the focus or what was typed is gone");
    browser.open(&format!("http://{}/workspaces/{}", daemon.address(), agent.id)).await?;
    let lanes = "[...document.querySelectorAll('.lane')].map((lane) => lane.textContent).join()";
    browser.until("the restart in the timeline", &format!("{lanes}.includes('Restart and recovery')")).await?;

    // The daemon goes, and comes back: the page connects again by itself.
    browser.run("window.stays = true").await?;
    daemon.stop(defib_tests::SOON).await?;
    browser.until("the break is told", "document.getElementById('stream').dataset.tone === 'doubt'").await?;
    let address = daemon.address().to_string();
    let _again = stage.start_with("again", &[("DEFIB_LISTEN_ADDR", &address)]).await?;
    browser
        .until("it is live again", "window.stays && document.getElementById('stream').textContent === 'live'")
        .await?;
    Ok(())
}
