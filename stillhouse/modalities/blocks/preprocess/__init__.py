"""From tables to blocks of packed documents."""
