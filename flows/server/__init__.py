"""The Prefect server of a checkout with its workers and pages, brought up and asked over plain HTTP: Prefect itself takes
two seconds to import."""
