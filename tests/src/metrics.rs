//! One scrape of `/metrics`.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context, Result};

/// The series of one scrape with their values. A series is written as Prometheus writes it, its labels in alphabetical
/// order: `defib_restarts_total{engine="default",outcome="failed"}`.
#[derive(Debug, Clone)]
pub struct Metrics {
    series: BTreeMap<String, f64>,
}

impl Metrics {
    pub(crate) fn parse(text: &str) -> Result<Self> {
        let samples = text.lines().filter(|line| !line.is_empty() && !line.starts_with('#'));
        let series = samples
            .map(|line| {
                let (series, value) = line.rsplit_once(' ').with_context(|| format!("no sample: {line}"))?;
                Ok((series.to_owned(), value.parse().with_context(|| format!("no number: {line}"))?))
            })
            .collect::<Result<_>>()?;
        Ok(Self { series })
    }

    /// The value of one series. An error when it does not exist: every series exists from the start.
    pub fn value(&self, series: &str) -> Result<f64> {
        self.series.get(series).copied().with_context(|| format!("there is no series {series}"))
    }

    /// The sum over all labels of a metric, or of those series that contain `label`.
    #[must_use]
    pub fn sum(&self, name: &str, label: &str) -> f64 {
        let of_it = self.series.iter().filter(|(series, _)| series.split('{').next() == Some(name));
        of_it.filter(|(series, _)| series.contains(label)).map(|(_, value)| value).sum()
    }

    /// The names of all metrics, those of a histogram without `_bucket`, `_sum` and `_count`.
    #[must_use]
    pub fn names(&self) -> BTreeSet<String> {
        let bare = |series: &str| {
            let name = series.split('{').next().unwrap_or_default();
            let parts = ["_bucket", "_sum", "_count"];
            parts.iter().find_map(|part| name.strip_suffix(part)).unwrap_or(name).to_owned()
        };
        self.series.keys().map(|series| bare(series)).collect()
    }

    /// All series.
    #[must_use]
    pub fn series(&self) -> &BTreeMap<String, f64> {
        &self.series
    }
}
