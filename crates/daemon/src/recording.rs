//! The flight recorder of this process: where it records, and how that goes.
//!
//! The judge's type ([`Recorded`](defib_record::Recorded)) decides what is recorded: it writes down each call that is made to the judge. A
//! thread of the recorder writes to the disk, and no other part of the daemon waits for it.

use std::path::PathBuf;
use std::time::Duration;

use defib_record::{RecordSettings, Recorder, Tape};
use tokio_util::sync::CancellationToken;

use crate::config::Config;
use crate::news::RecordingNews;
use crate::refused::Refused;

/// How often the state of the recorder is looked at.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// The flight recorder, where `DEFIB_RECORD_DIR` names a directory.
pub(crate) struct Recording {
    recorder: Recorder,
}

impl Recording {
    /// Starts to record, if the configuration says where.
    ///
    /// # Errors
    /// The directory cannot be used, or another daemon uses it.
    pub(crate) fn start(config: &Config) -> Result<Option<Self>, Refused> {
        let Some(directory) = &config.record_dir else { return Ok(None) };
        let settings = RecordSettings {
            directory: PathBuf::from(directory),
            max_bytes: config.record_max,
            program: env!("CARGO_PKG_VERSION").to_owned(),
            replica: config.replica_id.clone(),
        };
        let recorder = Recorder::start(settings).map_err(|error| Refused(format!("DEFIB_RECORD_DIR: {error}")))?;
        RecordingNews::begins(directory, config.record_max, recorder.torn());
        Ok(Some(Self { recorder }))
    }

    /// The tape onto which the judge's calls are recorded.
    pub(crate) fn tape(&self) -> Box<dyn Tape> {
        self.recorder.tape()
    }

    /// Tells how the recorder is doing, until `stop`.
    pub(crate) async fn tell(&self, news: RecordingNews, stop: CancellationToken) {
        let mut looks = tokio::time::interval(LOOK_EVERY);
        loop {
            tokio::select! {
                () = stop.cancelled() => return,
                _ = looks.tick() => news.goes(&self.recorder.condition()),
            }
        }
    }

    /// Writes what waits to be written, and ends. Waits for the disk.
    pub(crate) fn stop(&self) {
        self.recorder.stop();
    }
}
