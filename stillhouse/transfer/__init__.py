"""From one task to the next: fine-tuning in full, gradually, with LoRA; the stage `finetune` alone depends on it."""
