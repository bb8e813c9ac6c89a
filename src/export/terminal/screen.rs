//! Where things stand on the screen.

use ratatui::{
    Frame,
    layout::{Alignment, Constraint, Layout, Rect},
    style::{Color, Modifier, Style},
    text::{Line, Text},
    widgets::{Cell, Paragraph, Row as TableRow, Table},
};

use super::{
    Published, Sort, View,
    rows::{HEADINGS, Row, SLOW_HEADINGS, Slow, headline, rows, slowest},
};

const MOST_SLOW: u16 = 8;

/// Draws the whole screen: headline, edges, slowest resources, keys. Any size will do; what does not fit is left out.
pub fn render(frame: &mut Frame<'_>, current: &Published, previous: Option<&Published>, view: &View) {
    let area = frame.area();
    let slow_height = if area.height < 14 { 0 } else { MOST_SLOW.min(area.height / 4) + 2 };
    let [head, edges, slow, keys] =
        Layout::vertical([Constraint::Length(1), Constraint::Min(2), Constraint::Length(slow_height), Constraint::Length(1)]).areas(area);

    let lost = if current.lost() > 0 { Color::Yellow } else { Color::Reset };
    frame.render_widget(Paragraph::new(headline(current, previous)).style(Style::new().fg(lost).add_modifier(Modifier::BOLD)), head);
    draw_edges(frame, edges, &rows(current, previous, view.sort), view);
    if slow_height > 0 {
        let count = usize::from(slow.height.saturating_sub(2));
        draw_slowest(frame, slow, &slowest(current, count));
    }
    let help = Line::from(" q quit   r rate   e errors   p p99   ↑↓ scroll").style(Style::new().add_modifier(Modifier::DIM));
    frame.render_widget(help, keys);
}

fn draw_edges(frame: &mut Frame<'_>, area: Rect, rows: &[Row], view: &View) {
    let sorted = match view.sort {
        Sort::Rate => "REQ/S",
        Sort::Errors => "ERR %",
        Sort::P99 => "P99",
    };
    let visible = usize::from(area.height.saturating_sub(1));
    let first = view.scroll.min(rows.len().saturating_sub(visible));
    let lines = rows.iter().skip(first).take(visible).map(|row| {
        let color = if row.error_share > 0.0 { Color::Red } else { Color::Reset };
        let cells = row.cells().into_iter().enumerate();
        TableRow::new(
            cells.map(|(column, text)| cell(text, column >= 3).style(if column == 4 { Style::new().fg(color) } else { Style::new() })),
        )
    });
    let headings = HEADINGS.iter().enumerate().map(|(column, heading)| {
        let text = if *heading == sorted { format!("{heading}▾") } else { (*heading).to_owned() };
        cell(text, column >= 3)
    });
    let numbers = [9, 6, 7, 7, 7, 9, 7, 7].map(Constraint::Length);
    let widths = [Constraint::Fill(1), Constraint::Fill(1), Constraint::Length(10)].into_iter().chain(numbers);
    frame.render_widget(Table::new(lines, widths).header(TableRow::new(headings).style(heading_style())), area);
}

fn draw_slowest(frame: &mut Frame<'_>, area: Rect, slow: &[Slow]) {
    let lines = slow.iter().map(|slow| TableRow::new(slow.cells().into_iter().enumerate().map(|(column, text)| cell(text, column >= 2))));
    let headings = SLOW_HEADINGS.iter().enumerate().map(|(column, heading)| cell((*heading).to_owned(), column >= 2));
    let numbers = [8, 7, 7, 7, 7].map(Constraint::Length);
    let widths = [Constraint::Fill(1), Constraint::Fill(2)].into_iter().chain(numbers);
    let table = Table::new(lines, widths).header(TableRow::new(headings).style(heading_style()).top_margin(1));
    frame.render_widget(table, area);
}

fn heading_style() -> Style {
    Style::new().add_modifier(Modifier::REVERSED)
}

/// Words to the left, numbers to the right.
fn cell(text: String, number: bool) -> Cell<'static> {
    let alignment = if number { Alignment::Right } else { Alignment::Left };
    Cell::from(Text::from(text).alignment(alignment))
}
