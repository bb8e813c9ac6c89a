//! The live table: who talks to whom right now. What is drawn is a pure function of two published values, a view and a size;
//! this file adds the keys and the terminal. Where there is no terminal the same table comes as plain lines.

use std::{collections::VecDeque, io::Write, sync::Arc, time::Duration};

use anyhow::Context;
use ratatui::crossterm::event::{self, Event, KeyCode, KeyEvent, KeyEventKind, KeyModifiers};

use super::Published;

mod rows;
mod screen;

pub use rows::{Row, Slow, Sort, plain, rows, slowest};
pub use screen::render;

/// Rates are of this much time, so that they are steady and yet recent.
const WINDOW_NS: u64 = 3_000_000_000;
/// How soon a new value or a wish to quit is noticed.
const GLANCE: Duration = Duration::from_millis(100);

/// What the user chose to look at.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct View {
    pub sort: Sort,
    /// The first row shown; [`render`] shows the last rows if it is too far.
    pub scroll: usize,
}

/// Why the table was left.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exit {
    /// q, Esc or Ctrl-C.
    User,
    /// `quit` said so.
    Asked,
}

impl View {
    /// What a key changes; `Some` if the user wants to leave. `rows` is how many there are to scroll through.
    pub fn key(&mut self, key: KeyEvent, rows: usize) -> Option<Exit> {
        if key.kind == KeyEventKind::Release {
            return None;
        }
        let last = rows.saturating_sub(1);
        match key.code {
            KeyCode::Char('q') | KeyCode::Esc => return Some(Exit::User),
            // In raw mode Ctrl-C is a key, not a signal.
            KeyCode::Char('c') if key.modifiers.contains(KeyModifiers::CONTROL) => return Some(Exit::User),
            KeyCode::Char('r') => self.sort = Sort::Rate,
            KeyCode::Char('e') => self.sort = Sort::Errors,
            KeyCode::Char('p') => self.sort = Sort::P99,
            KeyCode::Up => self.scroll = self.scroll.saturating_sub(1),
            KeyCode::Down => self.scroll = (self.scroll + 1).min(last),
            KeyCode::PageUp => self.scroll = self.scroll.saturating_sub(10),
            KeyCode::PageDown => self.scroll = (self.scroll + 10).min(last),
            KeyCode::Home => self.scroll = 0,
            KeyCode::End => self.scroll = last,
            _ => {}
        }
        None
    }
}

/// The newest value, and one of about [`WINDOW_NS`] before to compare it with.
#[derive(Debug, Default)]
pub struct Window(VecDeque<Arc<Published>>);

impl Window {
    /// Takes in what the source gave; `true` if it is new.
    pub fn push(&mut self, published: Arc<Published>) -> bool {
        if self.0.back().is_some_and(|newest| Arc::ptr_eq(newest, &published)) {
            return false;
        }
        let enough_ns = published.snapshot.taken_ns.saturating_sub(WINDOW_NS);
        self.0.push_back(published);
        while self.0.len() > 2 && self.0[1].snapshot.taken_ns <= enough_ns {
            self.0.pop_front();
        }
        true
    }

    pub fn newest(&self) -> Option<&Published> {
        self.0.back().map(|published| &**published)
    }

    pub fn previous(&self) -> Option<&Published> {
        self.0.front().filter(|_| self.0.len() > 1).map(|published| &**published)
    }
}

/// Gives the terminal back however the table ends; a panic anywhere is covered by the hook that `try_init` installs.
struct Screen(ratatui::DefaultTerminal);

impl Drop for Screen {
    fn drop(&mut self) {
        ratatui::restore();
    }
}

/// Shows the table on the terminal until the user leaves or `quit` returns true. Blocks: for a thread of its own.
///
/// # Errors
/// If the terminal cannot be set up, read or drawn on.
pub fn run(mut source: impl FnMut() -> Arc<Published>, quit: impl Fn() -> bool) -> anyhow::Result<Exit> {
    let mut screen = Screen(ratatui::try_init().context("set up the terminal for the live table (try --output json or none)")?);
    let (mut view, mut window) = (View::default(), Window::default());
    let mut stale = true;
    while !quit() {
        stale |= window.push(source());
        if let Some(current) = window.newest().filter(|_| stale) {
            screen.0.draw(|frame| render(frame, current, window.previous(), &view)).context("draw the live table")?;
            stale = false;
        }
        // A burst of keys is taken in before the next drawing.
        let mut patience = GLANCE;
        while event::poll(patience).context("wait for keys")? {
            patience = Duration::ZERO;
            stale = true;
            if let Event::Key(key) = event::read().context("read a key")? {
                let edges = window.newest().map_or(0, |current| current.snapshot.edges.len());
                if let Some(exit) = view.key(key, edges) {
                    return Ok(exit);
                }
            }
        }
    }
    Ok(Exit::Asked)
}

/// Prints the table to `out` every `interval` and once at the end, until `quit` returns true. Blocks: for a thread of its own.
///
/// # Errors
/// If `out` cannot be written to.
pub fn run_plain(
    mut source: impl FnMut() -> Arc<Published>,
    quit: impl Fn() -> bool,
    out: &mut impl Write,
    interval: Duration,
) -> anyhow::Result<()> {
    let mut window = Window::default();
    loop {
        let mut waited = Duration::ZERO;
        while waited < interval && !quit() {
            std::thread::park_timeout(GLANCE);
            waited += GLANCE;
        }
        let leaving = quit();
        window.push(source());
        if let Some(current) = window.newest() {
            let text = plain(current, window.previous(), Sort::Rate);
            out.write_all(text.as_bytes()).and_then(|()| out.flush()).context("print the table")?;
        }
        if leaving {
            return Ok(());
        }
    }
}

#[cfg(test)]
mod tests;
