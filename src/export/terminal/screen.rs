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
    rows::{HEADINGS, Row, SLOW_HEADINGS, Slow, fit, headline, notices, rows, slowest},
};

const MOST_SLOW: u16 = 8;

/// Draws the whole screen: headline, edges, slowest resources, keys. Any size will do; what does not fit is left out.
pub fn render(frame: &mut Frame<'_>, current: &Published, previous: Option<&Published>, view: &View) {
    let area = frame.area();
    let head_lines = head(current, previous, area.width);
    let head_height = if area.height < 6 { 1 } else { head_lines.len() as u16 };
    let slow_height = if area.height < 14 { 0 } else { MOST_SLOW.min(area.height / 4) + 2 };
    let [head, edges, slow, keys] =
        Layout::vertical([Constraint::Length(head_height), Constraint::Min(2), Constraint::Length(slow_height), Constraint::Length(1)])
            .areas(area);

    let lost = if current.lost() > 0 { Color::Yellow } else { Color::Reset };
    let style = Style::new().fg(lost).add_modifier(Modifier::BOLD);
    frame.render_widget(Paragraph::new(head_lines.join("\n")).style(style), head);
    draw_edges(frame, edges, &rows(current, previous, view.sort), view);
    if slow_height > 0 {
        let count = usize::from(slow.height.saturating_sub(2));
        draw_slowest(frame, slow, &slowest(current, count));
    }
    let help = Line::from(" q quit   r rate   e errors   p p99   ↑↓ scroll").style(Style::new().add_modifier(Modifier::DIM));
    frame.render_widget(help, keys);
}

/// The headline and the notices: on one line where there is room.
fn head(current: &Published, previous: Option<&Published>, width: u16) -> Vec<String> {
    let headline = headline(current, previous);
    let notices = notices(current).join("  ");
    if notices.is_empty() {
        vec![headline]
    } else if headline.chars().count() + 2 + notices.chars().count() <= usize::from(width) {
        vec![format!("{headline}  {notices}")]
    } else {
        vec![headline, notices]
    }
}

/// Widths of the numbers' columns, from REQ/S on.
const NUMBERS: [u16; 8] = [9, 6, 7, 7, 7, 9, 7, 7];
const PROTOCOL: u16 = 10;
/// Columns are left out one after the other until a name has this much room.
const NAME: u16 = 20;
/// What can be spared most comes first: RETRANS, TOTAL, P50, BYTES, P95.
const SPARE: [usize; 5] = [10, 8, 5, 9, 6];

/// The columns that there is room for, and the room for each of the two names.
fn layout(width: u16) -> (Vec<usize>, u16) {
    let mut columns: Vec<usize> = (0..HEADINGS.len()).collect();
    let room = |columns: &[usize]| {
        let numbers: u16 = columns.iter().filter_map(|column| NUMBERS.get(column.checked_sub(3)?)).sum();
        // A space between each two columns.
        width.saturating_sub(numbers + PROTOCOL + columns.len() as u16 - 1) / 2
    };
    for spare in SPARE {
        if room(&columns) >= NAME {
            break;
        }
        columns.retain(|column| *column != spare);
    }
    let room = room(&columns);
    (columns, room)
}

fn draw_edges(frame: &mut Frame<'_>, area: Rect, rows: &[Row], view: &View) {
    let sorted = match view.sort {
        Sort::Rate => "REQ/S",
        Sort::Errors => "ERR %",
        Sort::P99 => "P99",
    };
    let (columns, room) = layout(area.width);
    let visible = usize::from(area.height.saturating_sub(1));
    let first = view.scroll.min(rows.len().saturating_sub(visible));
    let lines = rows.iter().skip(first).take(visible).map(|row| {
        let color = if row.error_share > 0.0 { Color::Red } else { Color::Reset };
        let cells = row.cells();
        TableRow::new(
            columns
                .iter()
                .map(move |&column| {
                    let text = if column < 2 { fit(&cells[column], room.into()) } else { cells[column].clone() };
                    cell(text, column >= 3).style(if column == 4 { Style::new().fg(color) } else { Style::new() })
                })
                .collect::<Vec<_>>(),
        )
    });
    let headings = columns.iter().map(|&column| {
        let heading = HEADINGS[column];
        cell(if heading == sorted { format!("{heading}▾") } else { heading.to_owned() }, column >= 3)
    });
    let widths = columns.iter().map(|&column| match column {
        0 | 1 => Constraint::Length(room),
        2 => Constraint::Length(PROTOCOL),
        number => Constraint::Length(NUMBERS[number - 3]),
    });
    frame.render_widget(Table::new(lines, widths).header(TableRow::new(headings).style(heading_style())), area);
}

fn draw_slowest(frame: &mut Frame<'_>, area: Rect, slow: &[Slow]) {
    const NUMBERS: [u16; 5] = [8, 7, 7, 7, 7];
    // Without ERRORS and MEAN where names would have no room.
    let columns: &[usize] = if area.width < 100 { &[0, 1, 2, 5, 6] } else { &[0, 1, 2, 3, 4, 5, 6] };
    let numbers: u16 = columns.iter().filter_map(|column| NUMBERS.get(column.checked_sub(2)?)).sum();
    let room = area.width.saturating_sub(numbers + columns.len() as u16 - 1) / 2;
    let lines = slow.iter().map(|slow| {
        let mut cells = slow.cells();
        cells[0] = slow.edge(room.into());
        TableRow::new(columns.iter().map(|&column| cell(std::mem::take(&mut cells[column]), column >= 2)).collect::<Vec<_>>())
    });
    let headings = columns.iter().map(|&column| cell(SLOW_HEADINGS[column].to_owned(), column >= 2));
    let widths = columns.iter().map(|&column| match column {
        0 | 1 => Constraint::Length(room),
        number => Constraint::Length(NUMBERS[number - 2]),
    });
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
