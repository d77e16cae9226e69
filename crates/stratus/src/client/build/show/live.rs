//! A build on a terminal: what is done is a line that stays, what runs is below it with its last lines, and moves.

use std::fmt::Write as _;
use std::time::Instant;

use build::Told;
use unicode_width::UnicodeWidthChar as _;

use super::course::{Course, News, State, Step, Transfer, time};
use crate::client::human;
use crate::client::terminal::{Style, clean};

/// The last lines of a running step that are shown.
const TAIL: usize = 6;

/// Columns of a bar, as those of other commands have.
const BAR: usize = 30;

/// A terminal that says nothing of its size has this one.
const SIZE: (usize, usize) = (24, 80);

/// Draws on a terminal.
#[derive(Debug)]
pub(super) struct Live {
    course: Course,
    /// What is built, in few words.
    what: String,
    colours: bool,
    /// When it was heard last how long the build goes on: what is shown goes on from there.
    heard: Instant,
    /// Columns of each line that moves, as it was drawn.
    drawn: Vec<usize>,
    /// Lines that stay, and are not drawn yet.
    staying: Vec<String>,
}

impl Live {
    pub(super) fn new(what: String, colours: bool) -> Live {
        Live { course: Course::default(), what, colours, heard: Instant::now(), drawn: Vec::new(), staying: Vec::new() }
    }

    pub(super) fn course(&self) -> &Course {
        &self.course
    }

    /// Takes what is told.
    pub(super) fn hear(&mut self, told: Told) {
        self.heard = Instant::now();
        for (id, news) in self.course.hear(told) {
            let Some(step) = self.course.step(id) else { continue };
            match news {
                News::Ended => self.staying.push(self.ended(step)),
                News::Warning(warning) => {
                    let text = format!("{} WARNING: {}", step.title, clean(&warning));
                    self.staying.push(Style::Careful.paint(&text, self.colours));
                }
                News::Began | News::Lines(_) => {}
            }
        }
    }

    /// What is written to show how it is now, on a terminal of so many rows and columns.
    pub(super) fn frame(&mut self, size: Option<(usize, usize)>) -> String {
        let (rows, columns) = size.unwrap_or(SIZE);
        let mut text = self.erased(columns);
        for line in std::mem::take(&mut self.staying) {
            // They may be longer than a row: they stay, and what they say is wanted.
            let _ = writeln!(text, "{line}");
        }
        // The last column stays free: some terminals go to the next row once it is written to.
        let width = columns.saturating_sub(1);
        for (line, style) in self.moving(rows.saturating_sub(1), width) {
            self.drawn.push(columns_of(&line));
            let _ = writeln!(text, "{}", style.paint(&line, self.colours));
        }
        text
    }

    /// What is written at the end: what stays, and nothing that moves.
    pub(super) fn last(&mut self, size: Option<(usize, usize)>) -> String {
        let mut text = self.erased(size.unwrap_or(SIZE).1);
        self.staying.drain(..).for_each(|line| _ = writeln!(text, "{line}"));
        text
    }

    /// Takes away what was drawn of what moves. A terminal that has become narrower has it on more rows.
    fn erased(&mut self, columns: usize) -> String {
        let rows: usize = self.drawn.drain(..).map(|width| width.div_ceil(columns.max(1)).max(1)).sum();
        if rows == 0 { String::new() } else { format!("\u{1b}[{rows}A\r\u{1b}[J") }
    }

    /// Lines that move: a title, and what runs, as much as there is room for.
    fn moving(&self, rows: usize, width: usize) -> Vec<(String, Style)> {
        let (done, all) = self.course.count();
        let now = self.course.at + self.heard.elapsed();
        let title = beside(&format!("Building {}", self.what), &format!("{done}/{all} {}", time(now)), width);
        let running: Vec<&Step> =
            self.course.steps().filter(|step| matches!(step.state, State::Running { .. })).collect();
        let mut lines = vec![(title, Style::Bold)];
        // All that runs is named before any of it says more.
        let room = rows.saturating_sub(1 + running.len());
        let tail = room.checked_div(running.len()).unwrap_or(0).min(TAIL);
        for step in running {
            lines.push((beside(&step.title, &time(now.saturating_sub(step.began)), width), Style::Plain));
            let said = match &step.transfer {
                Some(transfer) => {
                    transfer.text().map(|text| barred(transfer, text, width)).into_iter().take(tail).collect()
                }
                None => step.written.last(tail),
            };
            lines.extend(said.iter().map(|line| (cut(&format!("    {}", clean(line)), width), Style::Dim)));
        }
        lines.truncate(rows.max(1));
        lines
    }

    fn ended(&self, step: &Step) -> String {
        let size = step.size.map_or_else(String::new, |size| format!("  {}", human::decimal(size)));
        let title = clean(&step.title);
        let (text, style) = match &step.state {
            State::Done { made, took } => match made.cached() {
                Some(how) => (format!("{title}  {}{size}", clean(&how)), Style::Dim),
                None => (format!("{title}  {}{size}", time(*took)), Style::Good),
            },
            State::Failed { took, .. } => (format!("{title}  ERROR  {}", time(*took)), Style::Bad),
            State::Waiting | State::Running { .. } => (title, Style::Plain),
        };
        style.paint(&text, self.colours)
    }
}

/// How far something is, behind a bar where all of it is known and there is room.
fn barred(transfer: &Transfer, text: String, width: usize) -> String {
    match transfer.part().filter(|_| width >= 2 * BAR) {
        Some((current, total)) => format!("[{}] {text}", bar(current, total)),
        None => text,
    }
}

/// A bar as those of other commands look.
fn bar(current: u64, total: u64) -> String {
    let whole = usize::try_from(u128::from(current) * BAR as u128 / u128::from(total.max(1))).unwrap_or(BAR).min(BAR);
    let head = if whole == BAR { "" } else { ">" };
    format!("{:<BAR$}", format!("{}{head}", "=".repeat(whole)))
}

/// A text, and another at the end of the row.
fn beside(left: &str, right: &str, width: usize) -> String {
    let room = width.saturating_sub(columns_of(right) + 2);
    let left = cut(&clean(left), room);
    let gap = width.saturating_sub(columns_of(&left) + columns_of(right));
    cut(&format!("{left}{}{right}", " ".repeat(gap)), width)
}

/// A text of at most so many columns.
fn cut(text: &str, most: usize) -> String {
    if columns_of(text) <= most {
        return text.to_owned();
    }
    let mut columns = 0;
    let fits = |character: &char| {
        columns += character.width().unwrap_or(0);
        // One for what says that there is more.
        columns < most
    };
    let kept: String = text.chars().take_while(fits).collect();
    if most == 0 { kept } else { kept + "…" }
}

fn columns_of(text: &str) -> usize {
    text.chars().map(|character| character.width().unwrap_or(0)).sum()
}

#[cfg(test)]
mod tests {
    use super::*;
    use build::{Event, PlannedStage, StepEvent, StepId};
    use engine::OutputStream;
    use std::time::Duration;

    fn live() -> Live {
        let mut live = Live::new("app".to_owned(), false);
        let steps = vec!["FROM busybox".to_owned(), "RUN make".to_owned(), "RUN other".to_owned()];
        let planned =
            Event::Planned { arguments: Vec::new(), stages: vec![PlannedStage { stage: 0, name: None, steps }] };
        live.hear(Told { at: Duration::ZERO, platform: None, event: planned });
        live
    }

    fn step(live: &mut Live, index: usize, event: StepEvent) {
        live.hear(Told { at: Duration::ZERO, platform: None, event: Event::Step(StepId { stage: 0, index }, event) });
    }

    #[test]
    fn what_runs_has_its_last_lines_below_it_as_far_as_there_is_room() {
        let mut live = live();
        step(&mut live, 1, StepEvent::Began);
        let lines: String = (1..=20).map(|line| format!("line {line}\n")).collect();
        step(&mut live, 1, StepEvent::Output(OutputStream::Stdout, lines.into()));
        let frame = live.frame(Some((24, 40)));
        let rows: Vec<&str> = frame.lines().collect();
        assert_eq!(rows.len(), 2 + TAIL, "{frame}");
        assert!(rows[0].starts_with("Building app ") && rows[0].contains(" 0/3 0."), "{frame}");
        assert!(rows[1].starts_with("[2/3] RUN make ") && rows.iter().all(|row| columns_of(row) < 40), "{frame}");
        assert_eq!((rows[2], rows[7]), ("    line 15", "    line 20"));
        let frame = live.frame(Some((5, 40)));
        let text = frame.strip_prefix("\u{1b}[8A\r\u{1b}[J").expect("what was drawn is taken away");
        assert_eq!(text.lines().count(), 4, "{frame}");
        // On half as many columns, a row of 39 is two.
        let frame = live.frame(Some((1, 20)));
        assert!(frame.starts_with("\u{1b}[6A\r"), "{frame:?}");
        assert_eq!(live.last(None), "\u{1b}[1A\r\u{1b}[J");
    }

    #[test]
    fn what_comes_has_a_bar_where_all_of_it_is_known() {
        let mut live = live();
        step(&mut live, 1, StepEvent::Began);
        step(&mut live, 1, StepEvent::Downloading(1_000_000, None));
        assert!(live.frame(None).contains("    1.00MB have come\n"));
        step(&mut live, 1, StepEvent::Downloading(1_000_000, Some(4_000_000)));
        let frame = live.frame(Some((24, 80)));
        assert!(frame.contains("    [=======>                      ] 1.00MB of 4.00MB\n"), "{frame}");
        assert!(live.frame(Some((24, 40))).contains("    1.00MB of 4.00MB\n"));
        assert_eq!((bar(5, 5), bar(0, 0).len(), bar(9, 5)), ("=".repeat(BAR), BAR, "=".repeat(BAR)));
    }

    #[test]
    fn what_is_done_stays() {
        let mut live = live();
        step(&mut live, 1, StepEvent::Began);
        step(&mut live, 1, StepEvent::Cached);
        let image = format!("sha256:{}", "a".repeat(64)).parse().expect("an id");
        step(&mut live, 1, StepEvent::Done { image, size: Some(2_000_000) });
        assert!(live.frame(None).starts_with("[2/3] RUN make  CACHED  2.00MB\nBuilding app "));
        assert!(!live.frame(None).contains("CACHED"));
    }

    #[test]
    fn what_is_too_wide_is_cut() {
        assert_eq!(cut("漢字漢字", 5), "漢字…");
        assert_eq!((cut("abc", 3), cut("abcd", 3), cut("abc", 0)), ("abc".into(), "ab…".into(), String::new()));
    }
}
