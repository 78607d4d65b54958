//! Two deaths that no engine can mend: an instance, whose control plane only tells states, and a container that was removed. The
//! platform's own restart makes a new instance and a new container, and is asked once for each.

use anyhow::{Result, ensure};

use crate::scene::{Scene, is_recovery, is_restarted};
use crate::stage::Stage;

pub(crate) async fn play(stage: &Stage<'_>, number: usize) -> Result<()> {
    let scene = Scene::begin(stage, number, "An instance dies behind its control plane, and a container is removed");
    let (marsh, inlet) = (&stage.instance, stage.player("inlet")?);
    let (_, failed_before) = stage.traffic.counts();
    let killed_at = stage.count_death(marsh.id);
    stage.platform.kill_instance(marsh.id)?;
    scene.say_at(killed_at, "you", "kill -9 marsh on its instance: only its control plane can tell what became of it");
    let removed_at = stage.count_death(inlet.id);
    stage.engine.handle().remove(&inlet.container).await?;
    scene.say_at(removed_at, "you", "docker rm --force inlet: nothing is left that an engine could start");

    let (mut of_marsh, mut of_inlet) = (scene.news_of(marsh.id), scene.news_of(inlet.id));
    let (marsh_back, inlet_back, told_of_marsh, told_of_inlet) = tokio::try_join!(
        scene.answers_again(marsh.id, marsh.address),
        scene.answers_again(inlet.id, inlet.address),
        scene.follow(&mut of_marsh, is_recovery),
        scene.follow(&mut of_inlet, is_recovery),
    )?;
    for (id, told) in [(marsh.id, told_of_marsh), (inlet.id, told_of_inlet)] {
        let restarts = told.iter().filter(|item| is_restarted(&item.what)).count();
        let asked = stage.platform.restarts_asked(id);
        ensure!(restarts == 1 && asked == 1, "{id}: {restarts} restarts, and the platform was asked {asked} times");
    }
    let seconds = |back: std::time::SystemTime, since| back.duration_since(since).unwrap_or_default().as_secs_f64();
    let text = format!(
        "the platform was asked once for each: marsh answers on a new instance after {:.1} s, inlet in a new container after {:.1} s",
        seconds(marsh_back, killed_at),
        seconds(inlet_back, removed_at)
    );
    let container = stage.engine.handle().inspect(&inlet.container_name).await?.id;
    let is_new = container.is_some_and(|id| id != inlet.container);
    let instance = stage.platform.instance_of(marsh.id);
    scene.promise(is_new && instance.is_some_and(|instance| instance != marsh.first), &text)?;
    let (_, failed) = stage.traffic.counts();
    scene.promise(failed == failed_before, "no client noticed")?;
    scene.promise_that_nobody_else_was_touched("the others were left alone")
}
