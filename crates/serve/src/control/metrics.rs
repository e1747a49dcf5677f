use std::collections::HashSet;
use std::fmt;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::text::encode;
use prometheus_client::encoding::{
    DescriptorEncoder, EncodeLabel, EncodeLabelSet, LabelSetEncoder, MetricEncoder, NoLabelSet,
};
use prometheus_client::metrics::MetricType;
use prometheus_client::registry::{Registry, Unit};

use super::api::{SnapshotStatus, Status};
use crate::export::{Counts, Kind, LATENCY_MICROS, Use};
use crate::{MergePhase, MergeProgress, State};

/// How numbers are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Form {
    /// The text format of Prometheus, which everything understands.
    Plain,
    /// OpenMetrics, for clients that ask for it.
    OpenMetrics,
}

const OPEN_METRICS: &str = "application/openmetrics-text";

impl Form {
    /// By what a client accepts.
    pub(super) fn of(accept: Option<&str>) -> Self {
        match accept.is_some_and(|it| it.contains(OPEN_METRICS)) {
            true => Self::OpenMetrics,
            false => Self::Plain,
        }
    }

    pub(super) fn content_type(self) -> &'static str {
        match self {
            Self::Plain => "text/plain; version=0.0.4; charset=utf-8",
            Self::OpenMetrics => "application/openmetrics-text; version=1.0.0; charset=utf-8",
        }
    }
}

/// Everything there is to count.
#[derive(Debug)]
pub(super) struct Numbers {
    pub(super) status: Status,
    pub(super) uses: Vec<Use>,
}

/// As Prometheus reads it.
///
/// # Errors
///
/// None that numbers can cause.
pub(super) fn text(numbers: Numbers, form: Form) -> Result<String, fmt::Error> {
    let mut registry = Registry::with_prefix("dmsnap");
    registry.register_collector(Box::new(numbers));
    let mut text = String::new();
    encode(&mut text, &registry)?;
    Ok(match form {
        Form::OpenMetrics => text,
        Form::Plain => plain(&text),
    })
}

/// The same in the text format: there a counter's name ends in `_total` everywhere, and units and the end are
/// not told.
fn plain(text: &str) -> String {
    let names =
        text.lines().filter_map(|line| line.strip_prefix("# TYPE ")?.strip_suffix(" counter"));
    let counters: HashSet<&str> = names.collect();
    let mut plain = String::with_capacity(text.len());
    for line in text.lines() {
        let mut words = line.splitn(4, ' ');
        match (words.next(), words.next(), words.next(), words.next()) {
            (Some("#"), Some("EOF" | "UNIT"), ..) => continue,
            (Some("#"), Some(what), Some(name), Some(rest)) if counters.contains(name) => {
                plain += &format!("# {what} {name}_total {rest}");
            }
            _ => plain += line,
        }
        plain.push('\n');
    }
    plain
}

/// Labels of one number.
#[derive(Debug)]
struct Labels<'a>(&'a [(&'static str, &'a str)]);

impl EncodeLabelSet for Labels<'_> {
    fn encode(&self, encoder: &mut LabelSetEncoder<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|label| label.encode(encoder.encode_label()))
    }
}

/// A family of numbers on its way out.
struct Family<'a>(MetricEncoder<'a>);

impl Family<'_> {
    fn counter(&mut self, labels: &[(&'static str, &str)], value: u64) -> fmt::Result {
        let labels = Labels(labels);
        let mut metric = self.0.encode_family(&labels)?;
        metric.encode_counter::<NoLabelSet, u64, f64>(&value, None)
    }

    fn gauge(&mut self, labels: &[(&'static str, &str)], value: f64) -> fmt::Result {
        let labels = Labels(labels);
        let mut metric = self.0.encode_family(&labels)?;
        metric.encode_gauge(&value)
    }
}

/// Where families go.
struct Page<'a>(DescriptorEncoder<'a>);

impl Page<'_> {
    fn family<'s>(
        &'s mut self,
        name: &'s str,
        help: &'s str,
        unit: Option<&'s Unit>,
        kind: MetricType,
    ) -> Result<Family<'s>, fmt::Error> {
        self.0.encode_descriptor(name, help, unit, kind).map(Family)
    }

    /// One number for each kind of request of each export.
    fn requests(
        &mut self,
        uses: &[Use],
        (name, help, unit): (&str, &str, Option<&Unit>),
        value: impl Fn(&Counts) -> u64,
    ) -> fmt::Result {
        let mut family = self.family(name, help, unit, MetricType::Counter)?;
        for it in uses {
            for (kind, counts) in Kind::ALL.into_iter().zip(&it.counts) {
                let labels = [("export", it.name.as_str()), ("kind", kind.name())];
                family.counter(&labels, value(counts))?;
            }
        }
        Ok(())
    }

    fn latencies(&mut self, uses: &[Use]) -> fmt::Result {
        let help = "Time from a request's arrival to its answer";
        let unit = Some(&Unit::Seconds);
        let mut family = self.family("request_duration", help, unit, MetricType::Histogram)?;
        for it in uses {
            for (kind, counts) in Kind::ALL.into_iter().zip(&it.counts) {
                let labels = [("export", it.name.as_str()), ("kind", kind.name())];
                let labels = Labels(&labels);
                let mut metric = family.0.encode_family(&labels)?;
                let inside: u64 = counts.latencies.iter().sum();
                let bounds = LATENCY_MICROS.map(|micros| micros as f64 / 1e6);
                let beyond = (f64::INFINITY, counts.requests.saturating_sub(inside));
                let buckets: Vec<_> =
                    bounds.into_iter().zip(counts.latencies).chain([beyond]).collect();
                let sum = counts.nanos as f64 / 1e9;
                metric.encode_histogram::<NoLabelSet>(sum, counts.requests, &buckets, None)?;
            }
        }
        Ok(())
    }

    /// One number for each snapshot that has it.
    fn snapshots(
        &mut self,
        snapshots: &[SnapshotStatus],
        (name, help, unit): (&str, &str, Option<&Unit>),
        value: impl Fn(&SnapshotStatus) -> Option<f64>,
    ) -> fmt::Result {
        let mut family = self.family(name, help, unit, MetricType::Gauge)?;
        for it in snapshots {
            if let Some(value) = value(it) {
                family.gauge(&[("snapshot", &it.name)], value)?;
            }
        }
        Ok(())
    }

    fn totals(
        &mut self,
        snapshots: &[SnapshotStatus],
        (name, help): (&str, &str),
        value: impl Fn(&SnapshotStatus) -> Option<u64>,
    ) -> fmt::Result {
        let mut family = self.family(name, help, None, MetricType::Counter)?;
        for it in snapshots {
            if let Some(value) = value(it) {
                family.counter(&[("snapshot", &it.name)], value)?;
            }
        }
        Ok(())
    }

    fn states(&mut self, snapshots: &[SnapshotStatus]) -> fmt::Result {
        let help = "1 for the state the snapshot is in";
        let mut family = self.family("snapshot_state", help, None, MetricType::Gauge)?;
        for it in snapshots {
            for (word, state) in [
                ("active", State::Active),
                ("overflowed", State::Overflowed),
                ("invalid", State::Invalid),
            ] {
                let labels = [("snapshot", it.name.as_str()), ("state", word)];
                family.gauge(&labels, f64::from(u8::from(it.state == state)))?;
            }
        }
        Ok(())
    }

    fn stores(&mut self, all: &[SnapshotStatus]) -> fmt::Result {
        let bytes = Some(&Unit::Bytes);
        let known = |value: Option<u64>| value.map(|it| it as f64);
        self.states(all)?;
        self.snapshots(all, ("snapshot_exceptions", "Chunks with a copy", None), |it| {
            known(Some(it.exceptions))
        })?;
        let help = "Exceptions that a power cut would take now";
        self.snapshots(all, ("snapshot_unpublished", help, None), |it| {
            known(Some(it.unpublished))
        })?;
        let help = "Memory of the table of exceptions";
        self.snapshots(all, ("snapshot_table", help, bytes), |it| known(Some(it.memory_bytes)))?;
        self.snapshots(all, ("snapshot_size", "Size of the COW device", bytes), |it| {
            known(it.total_bytes)
        })?;
        let help = "What is given out of the COW device, metadata included";
        self.snapshots(all, ("snapshot_allocated", help, bytes), |it| known(it.allocated_bytes))?;
        let help = "Of that, metadata";
        self.snapshots(all, ("snapshot_metadata", help, bytes), |it| known(it.metadata_bytes))?;
        let help = "How full the store is, 1 for full";
        self.snapshots(all, ("snapshot_fill", help, Some(&Unit::Ratios)), |it| {
            it.percent.map(|percent| percent / 100.0)
        })?;
        let help =
            "When the store is full at the speed of the last minutes; absent if it does not fill";
        let seconds = Some(&Unit::Seconds);
        self.snapshots(all, ("snapshot_time_to_full", help, seconds), |it| it.seconds_to_full)?;
        let help = "Writes of slots since the snapshot was added";
        self.totals(all, ("snapshot_metadata_writes", help), |it| it.metadata_writes)?;
        let help = "Flushes for slots since the snapshot was added";
        self.totals(all, ("snapshot_metadata_flushes", help), |it| it.metadata_flushes)
    }

    fn merge(&mut self, merge: &MergeProgress) -> fmt::Result {
        let name = [("snapshot", merge.snapshot.as_str())];
        let bytes = Some(&Unit::Bytes);
        let mut gauge = |about: (&str, &str, Option<&Unit>), value: f64| {
            let mut family = self.family(about.0, about.1, about.2, MetricType::Gauge)?;
            family.gauge(&name, value)
        };
        let running = merge.state == MergePhase::Running;
        gauge(("merge_running", "1 while data moves", None), f64::from(u8::from(running)))?;
        let failed = merge.state == MergePhase::Failed;
        gauge(("merge_failed", "1 if a device failed", None), f64::from(u8::from(failed)))?;
        gauge(("merge_total", "To merge when it was started", bytes), merge.bytes_total as f64)?;
        gauge(("merge_left", "Left to merge", bytes), merge.bytes_left as f64)?;
        if let Some(left) = merge.seconds_left {
            let help = "Time left at the speed so far";
            gauge(("merge_time_left", help, Some(&Unit::Seconds)), left as f64)?;
        }
        Ok(())
    }
}

impl Collector for Numbers {
    fn encode(&self, encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let mut page = Page(encoder);
        let status = &self.status;
        let seconds = Some(&Unit::Seconds);
        let mut up =
            page.family("uptime", "Since the server started", seconds, MetricType::Gauge)?;
        up.0.encode_gauge(&status.seconds)?;
        let bytes = Some(&Unit::Bytes);
        let mut size =
            page.family("origin_size", "Size of the origin", bytes, MetricType::Gauge)?;
        size.0.encode_gauge(&(status.origin.len_bytes as f64))?;
        let help = "Clients that have the export now";
        let mut connections = page.family("connections", help, None, MetricType::Gauge)?;
        for it in &self.uses {
            connections.gauge(&[("export", &it.name)], it.connections as f64)?;
        }
        let uses = &self.uses;
        page.requests(uses, ("requests", "Requests answered", None), |it| it.requests)?;
        page.requests(uses, ("request_errors", "Requests that failed", None), |it| it.errors)?;
        let about = ("request_range", "Bytes of the ranges of requests", bytes);
        page.requests(uses, about, |it| it.bytes)?;
        page.latencies(uses)?;
        page.stores(&status.snapshots)?;
        match &status.merge {
            Some(merge) => page.merge(merge),
            None => Ok(()),
        }
    }
}
