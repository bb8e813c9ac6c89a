mod call;
mod web;
