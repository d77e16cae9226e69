//! docs/benchmarks.md: one line a figure.

use super::arena::Arena;
use crate::figures::Figures;
use anyhow::Result;
use std::fmt::Write;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

/// What a figure counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Unit {
    Milliseconds,
    PerSecond,
    Megabytes,
    Calls,
}

/// What is to be reached.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Target {
    AtMost(f64),
    AtLeast(f64),
    /// The first peer's figure divided by this.
    PeerDividedBy(f64),
    /// So much on the machine that the targets were set on, where the first peer's figure divided by this was as much.
    AtMostOrPeerDividedBy(f64, f64),
    /// No slower than a figure of this run.
    NoSlowerThan(f64),
    None,
}

/// One thing that was measured, of everybody who does it.
#[derive(Debug, Clone)]
pub(super) struct Figure {
    pub(super) what: &'static str,
    pub(super) unit: Unit,
    /// Stratus first, then its peers, each with all that was measured.
    pub(super) measured: Vec<(&'static str, Vec<f64>)>,
    pub(super) target: Target,
    /// What the rest of it is spent on.
    pub(super) bound: &'static str,
}

impl Figure {
    /// A time, in milliseconds, that is to be so long at most.
    pub(super) fn time(
        what: &'static str,
        measured: Vec<(&'static str, Vec<f64>)>,
        most: f64,
        bound: &'static str,
    ) -> Self {
        Self { what, unit: Unit::Milliseconds, measured, target: Target::AtMost(most), bound }
    }
}

/// The page, as far as it is measured.
pub(super) struct Document {
    heading: String,
    figures: Vec<Figure>,
}

impl Document {
    pub(super) fn new(load: f64, arena: &Arena) -> Result<Self> {
        let cores = std::thread::available_parallelism()?;
        let mut heading = String::from("# Benchmarks\n\n");
        let _ = writeln!(
            heading,
            "Written by `make bench`: everybody took turns in one run. The machine: {cores} cores, Linux {}, {}, load {load} at the start.",
            std::fs::read_to_string("/proc/sys/kernel/osrelease")?.trim(),
            cgroups(),
        );
        let _ = writeln!(
            heading,
            "The peers: {}, {}, {}, {}; the client: {}. Of stratus: a program of {:.1} MB.\n",
            first_line("dockerd", &["--version"]),
            first_line("runc", &["--version"]),
            first_line("crun", &["--version"]),
            first_line("buildah", &["--version"]),
            first_line("docker", &["--version"]),
            std::fs::metadata(&arena.program)?.len() as f64 / 1e6,
        );
        Ok(Self { heading, figures: Vec::new() })
    }

    pub(super) fn add(&mut self, figures: Vec<Figure>) {
        self.figures.extend(figures);
    }

    pub(super) fn text(&self, took: Duration) -> String {
        let mut text = self.heading.clone();
        text.push_str("A figure is the median, and in parentheses the range of the middle four fifths. A ratio says how many times better stratus is than that peer.\n\n");
        text.push_str("| what | stratus | peers | ratio | target | met |\n|---|---|---|---|---|---|\n");
        for figure in &self.figures {
            let _ = writeln!(text, "{}", figure.row());
        }
        text.push_str("\n## What bounds each\n");
        for figure in self.figures.iter().filter(|figure| !figure.bound.is_empty()) {
            let _ = writeln!(text, "- **{}**: {}", figure.what, figure.bound);
        }
        let _ = writeln!(text, "\nThe whole run took {:.0} s.", took.as_secs_f64());
        text
    }
}

impl Figure {
    fn row(&self) -> String {
        let mut all = self.measured.iter().map(|(name, values)| (*name, values.iter().copied().collect::<Figures>()));
        let ours = all.next().map_or_else(Figures::default, |(_, figures)| figures);
        let peers: Vec<(&str, Figures)> = all.collect();
        let shown: Vec<String> =
            peers.iter().map(|(name, figures)| format!("{name} {}", self.unit.show(figures))).collect();
        let ratios: Vec<String> =
            peers.iter().map(|(_, figures)| self.unit.ratio(ours.median(), figures.median())).collect();
        let (target, met) = self.judge(ours.median(), peers.first().map(|(_, figures)| figures.median()));
        let none = |list: Vec<String>| if list.is_empty() { "–".to_owned() } else { list.join(", ") };
        format!("| {} | {} | {} | {} | {target} | {met} |", self.what, self.unit.show(&ours), none(shown), none(ratios))
    }

    /// The target in words, and whether it is met.
    fn judge(&self, ours: f64, peer: Option<f64>) -> (String, &'static str) {
        let value = |value| self.unit.value(value);
        let (text, met) = match (self.target, peer) {
            (Target::AtMost(most), _) => (format!("≤ {}", value(most)), ours <= most),
            (Target::AtLeast(least), _) => (format!("≥ {}", value(least)), ours >= least),
            (Target::PeerDividedBy(times), Some(peer)) => {
                (format!("≤ {} (÷ {times})", value(peer / times)), ours <= peer / times)
            }
            (Target::AtMostOrPeerDividedBy(most, times), Some(peer)) => {
                let text = format!("≤ {}, ≤ {} (÷ {times})", value(most), value(peer / times));
                let met = match (ours <= most, ours <= peer / times) {
                    (true, true) => "yes",
                    (false, true) => "as a ratio",
                    (true, false) => "in time",
                    (false, false) => "**no**",
                };
                return (text, met);
            }
            // A twentieth is within what two runs of the same thing differ.
            (Target::NoSlowerThan(before), _) => (format!("≥ {}", value(before)), ours >= before * 0.95),
            (Target::PeerDividedBy(_) | Target::AtMostOrPeerDividedBy(..) | Target::None, _) => {
                return ("–".to_owned(), "–");
            }
        };
        (text, if met { "yes" } else { "**no**" })
    }
}

impl Unit {
    fn value(self, value: f64) -> String {
        match self {
            Unit::Milliseconds if value.abs() >= 1e3 => format!("{:.2} s", value / 1e3),
            Unit::Milliseconds => format!("{value:.1} ms"),
            Unit::PerSecond => format!("{value:.0}/s"),
            Unit::Megabytes => format!("{value:.2} MB"),
            Unit::Calls => format!("{value:.0}"),
        }
    }

    fn show(self, figures: &Figures) -> String {
        let (low, high) = (figures.percentile(10.0), figures.percentile(90.0));
        let median = self.value(figures.median());
        if low == high { median } else { format!("{median} ({}–{})", self.value(low), self.value(high)) }
    }

    /// How many times better ours is; of nothing, or less, nothing can be said.
    fn ratio(self, ours: f64, peer: f64) -> String {
        let ratio = if self == Unit::PerSecond { ours / peer } else { peer / ours };
        let something = |value: f64| value > 0.0 && self.value(value) != self.value(0.0);
        if something(ours) && something(peer) { format!("{ratio:.1}×") } else { "–".to_owned() }
    }
}

fn cgroups() -> &'static str {
    match (Path::new("/sys/fs/cgroup/cgroup.controllers").exists(), Path::new("/sys/fs/cgroup/unified").exists()) {
        (true, _) => "cgroup v2",
        (false, true) => "cgroup v1 with an empty v2 tree beside it",
        (false, false) => "cgroup v1",
    }
}

fn first_line(program: &str, arguments: &[&str]) -> String {
    let output = Command::new(program).args(arguments).output().map(|output| output.stdout).unwrap_or_default();
    let text = String::from_utf8_lossy(&output).lines().next().unwrap_or_default().trim().to_owned();
    if text.is_empty() { format!("no {program}") } else { text }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn figure(unit: Unit, ours: &[f64], peer: &[f64], target: Target) -> String {
        let measured = vec![("stratus", ours.to_vec()), ("runc", peer.to_vec())];
        Figure { what: "it", unit, measured, target, bound: "" }.row()
    }

    #[test]
    fn a_row_says_who_is_how_good() {
        let row = figure(Unit::Milliseconds, &[2.0, 2.0, 2.0], &[6.0, 5.0, 7.0], Target::AtMost(2.5));
        assert_eq!(row, "| it | 2.0 ms | runc 6.0 ms (5.0 ms–7.0 ms) | 3.0× | ≤ 2.5 ms | yes |");
        let row = figure(Unit::PerSecond, &[300.0], &[10.0], Target::AtLeast(400.0));
        assert_eq!(row, "| it | 300/s | runc 10/s | 30.0× | ≥ 400/s | **no** |");
        let row = figure(Unit::Megabytes, &[-0.001], &[2.0], Target::AtMost(0.3));
        assert_eq!(row, "| it | -0.00 MB | runc 2.00 MB | – | ≤ 0.30 MB | yes |");
        // Of two that took turns, either may have been the longer.
        let row = figure(Unit::Milliseconds, &[0.4, -1.0, 3.0], &[-2.0], Target::AtMost(15.0));
        assert_eq!(row, "| it | 0.4 ms (-1.0 ms–3.0 ms) | runc -2.0 ms | – | ≤ 15.0 ms | yes |");
        let target = Target::AtMostOrPeerDividedBy(4.0, 2.0);
        let row = figure(Unit::Milliseconds, &[5.0], &[12.0], target);
        assert_eq!(row, "| it | 5.0 ms | runc 12.0 ms | 2.4× | ≤ 4.0 ms, ≤ 6.0 ms (÷ 2) | as a ratio |");
        for (ours, met) in [(3.0, "yes"), (7.0, "**no**")] {
            assert!(figure(Unit::Milliseconds, &[ours], &[12.0], target).ends_with(&format!("| {met} |")));
        }
        let row = figure(Unit::Milliseconds, &[5.0], &[6.0], Target::PeerDividedBy(1.5));
        assert_eq!(row, "| it | 5.0 ms | runc 6.0 ms | 1.2× | ≤ 4.0 ms (÷ 1.5) | **no** |");
    }
}
