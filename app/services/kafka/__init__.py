from app.services.kafka.service import KafkaService as KafkaService
