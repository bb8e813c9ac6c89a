mod call;
mod golden;
mod web;
